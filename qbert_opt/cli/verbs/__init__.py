"""One file per verb. A file defines `command`, whose parameters are the verb's options.

Heavy imports belong inside the function, because `--help` must not load torch.
"""
