"""Training quantizers: one file each. A module that holds latent weights and what its ranges store.

`trained(weight, start)` makes one from float weights and the codes to start from; its `forward` returns the weights
`[rows, columns]` that its `stored` matrix stands for, bit for bit.
"""
