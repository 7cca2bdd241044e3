"""Inference in integers only: a compiler from quantized folders to a small program, and what runs the program."""
