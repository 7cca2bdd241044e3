"""Quantization of weight matrices to codes and ranges, and of their inputs to integers."""
