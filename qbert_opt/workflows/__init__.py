"""Workflows: score, solve, quantize, recover, export, verify and refine, for Python and the command line alike."""
