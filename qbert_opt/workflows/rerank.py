"""Time the plans of a shortlist in an engine on this machine, and rank them by measured latency.

Latency depends on how weights are stored, not on their values, so every plan is rounded by `rtn` here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ..costs.workload import Workload
from ..engines.session import engine, exporting_format
from ..engines.timing import made_up_inputs
from ..errors import UsageError
from ..formats.traced_model import traceable
from ..models.loading import LoadedModel
from ..quantization.calibration import MatrixQuantizer, quantized_matrices
from ..runtime.cpu_timing import Call, Timing, time_calls
from ..runtime.progress import Progress, silent
from ..spec.allocation import Allocation
from .verify import apply_plan

ROUNDS = 15
LIMIT_S = 120.0
TIE = 3.0  # two times within this many spreads count as equal


@dataclass(frozen=True, slots=True)
class TimedPlan:
    """A plan with its measured latency.

    Attributes:
        number: position in the shortlist, counting from 1.
        allocation: the plan.
        latency_s: median CPU time of an inference on one thread, seconds.
        spread: relative standard deviation of a timing.
    """

    number: int
    allocation: Allocation
    latency_s: float
    spread: float


def time_plans(
    loaded: LoadedModel,
    plans: Sequence[Allocation],
    engine_name: str,
    workload: Workload,
    *,
    rounds: int = ROUNDS,
    progress: Progress = silent,
) -> list[TimedPlan]:
    """Time every plan in an engine, interleaved in rounds, on one thread with 8-bit inputs.

    Args:
        loaded: the model that the plans belong to.
        plans: a shortlist, smallest predicted loss first.
        engine_name: a file in `engines/backends`.
        workload: sentences and tokens of one inference.
        rounds: timings per plan.
        progress: called with steps done, number of steps, and the current step.

    Raises:
        UsageError: the engine is unknown, not installed, runs all plans at the same speed, or cannot run a form.
        InputFileError: the plans belong to another model.
    """
    check_timed(engine_name)
    total = len(plans) + rounds
    calls: dict[int, Call] = {}
    for index, plan in enumerate(plans):
        progress(index, total, f"converting plan {index + 1}")
        calls[index] = _inference(loaded, plan, engine_name, workload)
    timings: dict[int, Timing] = time_calls(
        calls,
        rounds=rounds,
        limit_s=LIMIT_S,
        warm=True,
        on_step=lambda done, _: progress(len(plans) + done, total, "timing"),
    )
    return [TimedPlan(i + 1, plan, timings[i].median_s, timings[i].spread) for i, plan in enumerate(plans)]


def check_timed(engine_name: str) -> None:
    """Refuse an engine in which plans cannot be timed, before there are any.

    Args:
        engine_name: a file in `engines/backends`.

    Raises:
        UsageError: it is unknown, not installed, can only be planned for, or runs all plans at the same speed.
    """
    if engine(engine_name, "measure").FORMAT is None:
        raise UsageError(f"`measure` {engine_name}: runs every plan as floats, at one speed. Legal: those of 'export'.")


def ranked(timed: Sequence[TimedPlan], limit_s: float | None = None) -> list[TimedPlan]:
    """Rank plans: those within the limit first, then by latency, and by loss if latencies are equal within the spread.

    Args:
        timed: the measured plans.
        limit_s: latency limit in seconds; None for no limit.
    """
    spread = max(plan.spread for plan in timed)

    def order(plan: TimedPlan) -> tuple[bool, int, float]:
        faster = sum(other.latency_s * (1 + TIE * spread) < plan.latency_s for other in timed)
        return plan.latency_s > (math.inf if limit_s is None else limit_s), faster, plan.allocation.sum_of_scores

    return sorted(timed, key=order)


def _inference(loaded: LoadedModel, plan: Allocation, engine_name: str, workload: Workload) -> Call:
    plan = plan.model_copy(update={"activations": ()})
    quantizer = MatrixQuantizer(loaded, plan.profile, "rtn", None)
    # the model needs the dequantized weights, because a matrix is found in the converted graph by its values
    traced = traceable(apply_plan(loaded, plan, quantizer), lean=True)
    stored = list(quantized_matrices(quantizer, plan))
    module = engine(engine_name)
    with TemporaryDirectory(prefix="qbert-opt-", ignore_cleanup_errors=True) as folder:
        exporting_format(engine_name).write(traced, stored, Path(folder), "int8")
        session = module.open_model(Path(folder), 1, "int8")
    inputs = made_up_inputs(traced.inputs, workload.batch_size, workload.seq_len)
    return lambda: session.run(inputs)
