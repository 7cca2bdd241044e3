"""One file per verb. A file defines `command`, a function whose parameters are the verb's options.

Heavy imports belong inside the function: `--help` must not load torch.
"""
