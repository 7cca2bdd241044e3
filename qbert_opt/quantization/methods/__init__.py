"""Quantizers, one file each. What one must define is `quantization.quantizer.Quantizer`."""

from ..quantized_matrix import QuantizedMatrix

__all__ = ["QuantizedMatrix"]
