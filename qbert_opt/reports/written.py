"""A written quantized folder as text: its bytes, and the result of reading it back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..quantization.writing import CLOSEST
from ..runtime.plain_text import one_line
from ..spec.allocation import Allocation
from ..spec.plan_checks import RESCORED

if TYPE_CHECKING:
    from ..checkpoint.written import WrittenModel


def written_lines(written: WrittenModel, plan: Allocation) -> list[str]:
    """Return what is on disk, compared with what was planned.

    Args:
        written: the written folder, with bytes counted from the file.
        plan: the plan.
    """
    lines = [
        f"{written.folder}: {plan.profile.part} matrices {written.encoder_bytes:,} bytes "
        f"(planned {plan.encoder_bytes:,}), all tensors {written.tensor_bytes:,} bytes (planned {plan.total_bytes:,})",
        f"file header {written.header_bytes:,} bytes more: it says where each tensor lies",
    ]
    if written.written_by not in (None, plan.method):
        closer = ", which rounds more closely" if written.written_by == CLOSEST else ""
        own = "its own" if plan.contains.endswith(RESCORED) else f"{plan.method}'s"
        lines.append(f"codes            written by {written.written_by}{closer}; the prediction is of {own} codes")
    if (read_back := written.read_back) is not None:
        lines.append(
            f"read back        bytes and hashes agree; measured loss {read_back.loss:.4g} {read_back.loss_unit} on "
            f"{read_back.num_texts} texts of {read_back.data}, predicted {plan.predicted_loss:.4g} ± "
            f"{plan.predicted_std_error:.1g}"
        )
        scored_on = plan.provenance.data
        if plan.provenance.data_sha256 and read_back.data != scored_on:
            lines.append(
                f"check texts      {read_back.data}, not {one_line(scored_on)}, which the plan was scored on and which "
                "is not to be read there or has changed: give it with --data to check exports on it"
            )
    return lines
