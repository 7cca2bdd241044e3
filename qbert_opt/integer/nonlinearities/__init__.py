"""Methods for exp, GELU, tanh and the square root in integers, one per file."""
