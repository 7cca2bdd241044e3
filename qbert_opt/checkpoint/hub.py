"""Load quantized folders with `AutoModel….from_pretrained(DIR)`: our entry in transformers' table of quantizers.

transformers does not discover entry points of other packages, so `register` must be called once per process. The loaded
model keeps packed codes and unpacks a matrix when it is used; `model.dequantize()` turns it into a float model. Without
`register`, `from_pretrained` fails, because the packed tensors do not have the shapes of the model's weights.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers.quantizers.auto import (
    AUTO_QUANTIZER_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from ..errors import InputFileError
from .record import METHOD, checked_record


class FolderConfig(QuantizationConfigMixin):
    """`quantization_config` of a quantized folder."""

    def __init__(self, **fields: Any) -> None:
        record = checked_record(fields, "config.json")
        self.__dict__.update(record.model_dump())


class FolderQuantizer(HfQuantizer):
    """Lets transformers fill packed modules from a quantized folder."""

    _packed: Sequence[str] = ()

    def _process_model_before_weight_loading(
        self, model: nn.Module, checkpoint_files: list[str] | None = None, **_others: Any
    ) -> None:
        from ..models.head_counts import narrow_attention
        from ..models.tiers import split_table
        from ..spec.allocation import read_allocation
        from .packed_modules import CODES_BUFFER, pack_modules, quantized_parts
        from .record import read_record

        if not checkpoint_files:
            raise InputFileError("from_pretrained: a quantized model is opened from its folder only.")
        folder = Path(checkpoint_files[0]).parent
        record = read_record(folder)
        plan = read_allocation(folder / record.plan)
        split_table(model, str(folder))
        narrow_attention(model, str(folder))
        pack_modules(model, plan)
        if record.codes_name != CODES_BUFFER:
            self._packed = [part.module for part in quantized_parts(plan)]

    def get_weight_conversions(self) -> list[Any]:
        """Map packed codes in the file, stored under the name of the weight that they replace, to their buffer."""
        from transformers.core_model_loading import WeightRenaming

        from .packed_modules import CODES_BUFFER

        if not self._packed:
            return []
        modules = "|".join(re.escape(module) for module in self._packed)
        return [WeightRenaming(rf"^({modules})\.weight$", rf"\1.{CODES_BUFFER}")]

    def get_new_dtype(self, converter: Any, param: Any, dtype: Any) -> Any:
        """Keep the type of codes and ranges; other tensors, stored in fp16, take the model's type."""
        return dtype

    def _dequantize(self, model: nn.Module, dtype: Any = None) -> nn.Module:
        from .packed_modules import unpack_modules

        unpack_modules(model)
        return model if dtype is None else model.to(dtype)

    def is_serializable(self) -> bool:
        """Return False: folders are written by `quantize`, with their plan and hashes."""
        return False

    @property
    def is_trainable(self) -> bool:
        """Return False: codes have no gradient."""
        return False


def register() -> None:
    """Register quantized folders with transformers; repeated calls have no effect."""
    if METHOD not in AUTO_QUANTIZER_MAPPING:
        register_quantization_config(METHOD)(FolderConfig)
        register_quantizer(METHOD)(FolderQuantizer)
