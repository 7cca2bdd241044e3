"""The result of recovery training, as lines of text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..training.run_state import PhaseRecord
    from ..workflows.recover import Recovered


def recovery_lines(run: Recovered) -> list[str]:
    """Return each phase with its loss, the best loss, and the number of passes and the time that training took.

    Args:
        run: result of the training.
    """
    lines = [_phase_line(record) for record in run.phases]
    best = "the quantizer's own codes" if run.best_phase == "start" else run.best_phase
    epochs = ", ".join(f"{step} {count:g}" for step, count in run.epochs.items())
    lines += [
        f"measured loss    {run.start_loss:.4g} before training, {run.best_loss:.4g} after ({best}); "
        f"{run.loss_unit}, on {run.num_held} held-back training texts",
        f"trained          on {run.num_texts} texts, passes over them: {epochs}; "
        f"{run.cpu_seconds / 60:.1f} processor minutes",
        f"prediction       void: the plan's {run.plan.predicted_loss:.4g} was for the codes before training",
    ]
    if run.teacher_bytes is not None:
        lines.append(f"teacher cache    {run.teacher_bytes / 1e6:,.1f} MB were on disk; removed")
    if run.stopped is not None:
        lines.append(f"ended early      {run.stopped}")
    written = run.written
    lines.append(
        f"{written.folder}: {run.plan.profile.part} matrices {written.encoder_bytes:,} bytes "
        f"(planned {run.plan.encoder_bytes:,}), all tensors {written.tensor_bytes:,} bytes "
        f"(planned {run.plan.total_bytes:,})"
    )
    return lines


def _phase_line(record: PhaseRecord) -> str:
    kept = "kept" if record.kept else "not kept: no better than before"
    return (
        f"{record.phase:<17}{record.updates} updates, training loss {record.train_loss:.4g}, "
        f"held-back loss {record.held_loss:.4g}, {kept} ({record.cpu_seconds / 60:.1f} processor minutes so far)"
    )
