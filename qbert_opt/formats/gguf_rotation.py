"""Rotary positions of a decoder in a GGUF file: a base, and one factor for all frequencies or one for each.

llama.cpp divides the angle of frequency i by the i-th number of `rope_freqs`, if a file of Llama has this tensor, and
all angles by `rope.scaling.factor` (ggml_rope_ext of ggml). The factors are the plain frequencies base^(-2i/d) divided
by those that transformers computes from the config, so no scaling formula is repeated here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError

Floats = NDArray[np.float32]
KINDS = ("default", "linear", "llama3")
OTHERS = "Open the quantized folder with transformers' from_pretrained."


def rotation(model: Any, name: str, who: str) -> tuple[dict[str, Any], Floats | None]:
    """Return the metadata of rotary positions, and the factors of frequencies if these need a tensor.

    Args:
        model: a transformers model.
        name: name of llama.cpp's architecture.
        who: the target and the model, for messages.

    Raises:
        UsageError: llama.cpp's architecture does not support these positions.
    """
    config = model.config
    if name == "gpt2":
        return {}, None
    rotary = model.model.rotary_emb
    if name != "gemma3":
        base, factors = _factors(config.rope_parameters, rotary, "", config, who)
        keys = {f"{name}.rope.freq_base": base}
    else:
        stated = config.rope_parameters
        base, factors = _factors(stated["full_attention"], rotary, "full_attention_", config, who)
        local, own = _factors(stated["sliding_attention"], rotary, "sliding_attention_", config, who)
        if not np.allclose(own, 1, rtol=1e-5):
            raise UsageError(f"{who} scales the positions of its sliding attention. {OTHERS}")
        keys = {f"{name}.rope.freq_base": base, f"{name}.rope.freq_base_swa": local}
    if np.allclose(factors, 1, rtol=1e-5):
        return keys, None
    if np.allclose(factors, factors[0], rtol=1e-5):
        return keys | {f"{name}.rope.scaling.type": "linear", f"{name}.rope.scaling.factor": float(factors[0])}, None
    if name == "llama":
        return keys, factors
    raise UsageError(f"{who} has rotary frequencies that llama.cpp's {name} does not have. {OTHERS}")


def _factors(stated: Mapping[str, Any], rotary: Any, prefix: str, config: Any, who: str) -> tuple[float, Floats]:
    """Return the base, and the divisor of each frequency."""
    kind = stated.get("rope_type", "default")
    found = getattr(rotary, f"{prefix}inv_freq", None)
    if found is None:  # no layer of this kind
        return float(stated["rope_theta"]), np.ones(1, np.float32)
    frequencies: Floats = found.float().numpy()
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if kind not in KINDS or 2 * len(frequencies) != size:
        raise UsageError(f"{who} has rotary positions of type {kind}; legal: {', '.join(KINDS)}. {OTHERS}")
    base = float(stated["rope_theta"])
    plain = 1.0 / base ** (np.arange(0, size, 2, dtype=np.float64) / size)
    return base, (plain / frequencies).astype(np.float32)
