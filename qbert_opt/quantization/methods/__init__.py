"""Quantizers, one file each; `quantization.quantizer.Quantizer` says what each must define."""

from ..quantized_matrix import QuantizedMatrix

__all__ = ["QuantizedMatrix"]
