r"""llama.cpp: a file for `llama-quantize --tensor-type-file`, one `tensor=type` per line.

Tensors are named as in a GGUF file of a BERT: `blk.3.attn_q.weight`. Types use blocks of 16 or 32 inputs; those of 2, 3
and 6 bits use super-blocks of 256 inputs and are not available if 256 does not divide the number of inputs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from ...errors import UsageError
from ...spec.allocation import Allocation
from ...spec.planned import PlannedMatrix
from ...spec.profiles import MatrixSpec, ModelProfile
from ..offers import Carried, Offer

TITLE = "llama.cpp"
SUFFIXES = (".txt",)
DECODERS = True
TRANSPOSED = True
ROUNDING = "to the nearest code of a searched range, weighted by an importance matrix if one is given"
NOTES = (
    "Use: llama-quantize --tensor-type-file FILE model-f16.gguf out.gguf Q8_0.",
    "Types of 3 and 6 bits are symmetric; the scales of types of 2, 3 and 6 bits are quantized themselves.",
)
TENSORS = {
    "query": "attn_q",
    "key": "attn_k",
    "value": "attn_v",
    "query_key_value": "attn_qkv",
    "attention_output": "attn_output",
    "intermediate": "ffn_up",
    "output": "ffn_down",
}
# name: (equivalent format, inputs that must divide the width); bits per group are block bytes minus codes
TYPES = {
    "q2_k": (Offer(2, "columns:16", "offset", 10, "q2_k"), 256),  # 84 bytes for 256 weights
    "q3_k": (Offer(3, "columns:16", "symmetric", 7, "q3_k"), 256),  # 110 bytes for 256
    "q4_0": (Offer(4, "columns:32", "symmetric", 16, "q4_0"), 32),  # 18 bytes for 32
    "q4_1": (Offer(4, "columns:32", "offset", 32, "q4_1"), 32),  # 20 bytes for 32
    "q5_0": (Offer(5, "columns:32", "symmetric", 16, "q5_0"), 32),
    "q5_1": (Offer(5, "columns:32", "offset", 32, "q5_1"), 32),
    "q6_k": (Offer(6, "columns:16", "symmetric", 9, "q6_k"), 256),  # 210 bytes for 256
    "q8_0": (Offer(8, "columns:32", "symmetric", 16, "q8_0"), 32),  # 34 bytes for 32
}


def offers(matrix: PlannedMatrix) -> Iterator[Offer]:
    """The types whose blocks divide the matrix's number of inputs."""
    return (offer for offer, width in TYPES.values() if matrix.columns % width == 0)


def write(plan: Allocation, carried: Sequence[Carried], suffix: str) -> str:
    """Write one line per tensor.

    Raises:
        UsageError: a matrix is not part of a plain BERT layer and has no name in llama.cpp.
    """
    lines = []
    for item in carried:
        name = _tensor_name(item.matrix, plan.profile)
        if name is None:
            raise UsageError(f"{item.matrix.module}: is not part of a plain BERT layer and has no name in llama.cpp.")
        tensor = re.escape(name)
        lines.append(f"{tensor}={item.offer.name}")
    return "\n".join(lines) + "\n"


def read(content: Any, profile: ModelProfile, suffix: str) -> dict[str, Offer]:
    """Match each matrix's tensor name against the lines; the first match applies."""
    rules = [line.partition("=")[::2] for line in content.split()]
    offers = {}
    for matrix in profile.matrices:
        name = _tensor_name(matrix, profile) or ""
        for pattern, kind in rules:
            if re.search(pattern, name):
                if kind.lower() not in TYPES:
                    raise ValueError(f"type {kind!r} is none of {', '.join(TYPES)}")
                offers[matrix.module] = TYPES[kind.lower()][0]
                break
    return offers


def _tensor_name(matrix: PlannedMatrix | MatrixSpec, profile: ModelProfile) -> str | None:
    """Return a matrix's name in a GGUF file; None if its role has none.

    Of the two wide layers of a gated feed-forward, the one that is named so is the gate.
    """
    tensor = TENSORS.get(matrix.kind)
    if matrix.kind == "intermediate":
        wide = [m.module for m in profile.matrices if m.block == matrix.block and m.kind == "intermediate"]
        gates = [module for module in wide if "gate" in module.rpartition(".")[2]]
        if len(wide) > 1 and (len(wide) > 2 or len(gates) != 1):
            return None
        tensor = "ffn_gate" if len(wide) > 1 and matrix.module in gates else "ffn_up"
    return None if tensor is None else f"blk.{matrix.block}.{tensor}.weight"
