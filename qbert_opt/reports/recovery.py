"""What training brought back, as lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..training.run_state import PhaseRecord
    from ..workflows.recover import Recovered


def recovery_lines(found: Recovered) -> list[str]:
    """Each phase with its loss, what was reached, and what a second run needs to reach it again.

    Args:
        found: what training did.
    """
    lines = [_phase_line(record) for record in found.phases]
    best = "the quantizer's own codes" if found.best_phase == "start" else found.best_phase
    epochs = ", ".join(f"{step} {count:g}" for step, count in found.epochs.items())
    lines += [
        f"measured loss    {found.start_loss:.4g} before training, {found.best_loss:.4g} after ({best}); "
        f"{found.loss_unit}, on {found.num_held} held-back training texts",
        f"trained          on {found.num_texts} texts, passes over them: {epochs}; "
        f"{found.cpu_seconds / 60:.1f} processor minutes",
        f"prediction       void: the plan's {found.plan.predicted_loss:.4g} was of the codes before training",
    ]
    if found.stopped is not None:
        lines.append(f"ended early      {found.stopped}")
    written = found.written
    lines.append(
        f"{written.folder}: encoder matrices {written.encoder_bytes:,} bytes (planned {found.plan.encoder_bytes:,}), "
        f"all tensors {written.tensor_bytes:,} bytes (planned {found.plan.total_bytes:,})"
    )
    return lines


def _phase_line(record: PhaseRecord) -> str:
    kept = "kept" if record.kept else "not kept: no better than before"
    return (
        f"{record.phase:<17}{record.updates} updates, training loss {record.train_loss:.4g}, "
        f"held-back loss {record.held_loss:.4g}, {kept} ({record.cpu_seconds / 60:.1f} processor minutes so far)"
    )
