"""Ways to turn a weight matrix into codes and ranges; one file each.

A quantizer defines `quantize(weight, layouts, gram) -> list[QuantizedMatrix]` over all layouts of a matrix at once,
`NEEDS_GRAM`: whether it wants the input second moments of calibration text, and `FORMS`: what its ranges can store,
the usual one first. `GRADIENT_SHARE`, where it has one, is how far those moments weight tokens by squared gradients.
"""

from ..quantized_matrix import QuantizedMatrix

__all__ = ["QuantizedMatrix"]
