"""Weightings of the error of a block's output by token, one file each.

`token_weights(teacher)` returns, for each block and batch, float32 `[B, T]`: 0 at padding.
"""
