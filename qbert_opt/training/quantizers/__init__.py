"""Training quantizers, one file each: modules that hold latent weights and the parameters of ranges.

`trained(weight, start)` makes one from float weights and the codes to start from; its `forward` returns the weights
`[rows, columns]` that its `stored` matrix dequantizes to, bit for bit.
"""
