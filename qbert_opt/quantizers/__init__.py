"""Ways to turn a weight matrix into codes, scales and offsets; one file each.

A quantizer defines `quantize(weight, layouts, gram) -> list[QuantizedMatrix]` over all layouts of a matrix at once, and
`NEEDS_GRAM`: whether it wants the input second moments of calibration text.
"""

from ._matrix import QuantizedMatrix

__all__ = ["QuantizedMatrix"]
