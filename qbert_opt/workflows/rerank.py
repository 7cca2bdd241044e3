"""The plans of a shortlist really timed in an engine on this machine, and put in order by what was measured.

Time in an engine depends on how weights are stored, not on their values: every plan is rounded plainly for this.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ..costs.operations import Workload
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
TIE = 3.0  # spreads within which two times are the same


@dataclass(frozen=True, slots=True)
class TimedPlan:
    """A plan with what its inference took.

    Attributes:
        number: place in the shortlist, from 1.
        allocation: the plan.
        latency_s: median processor time of an inference on one thread.
        spread: standard deviation of a reading as a share of that.
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
    """Run every plan in an engine, all of them in turn in each round, one thread, inputs of products in 8 bits.

    Args:
        loaded: the model that the plans are of.
        plans: a shortlist, of least predicted loss first.
        engine_name: a file in `engines`.
        workload: sentences and tokens of one inference.
        rounds: readings of each.
        progress: called with steps done, steps in all, and what goes on.

    Raises:
        UsageError: an engine that is unknown, not installed, or runs every plan alike; a form that it cannot run.
        InputFileError: plans of another model.
    """
    if engine(engine_name).FORMAT is None:
        raise UsageError(f"`measure` {engine_name}: runs every plan as floats, at one speed. Legal: those of 'export'.")
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


def ranked(timed: Sequence[TimedPlan], limit_s: float | None = None) -> list[TimedPlan]:
    """Put plans in order: those within the limit, then by time, and where times are as good as equal, by loss."""
    spread = max(plan.spread for plan in timed)

    def order(plan: TimedPlan) -> tuple[bool, int, float]:
        faster = sum(other.latency_s * (1 + TIE * spread) < plan.latency_s for other in timed)
        return plan.latency_s > (math.inf if limit_s is None else limit_s), faster, plan.allocation.sum_of_scores

    return sorted(timed, key=order)


def _inference(loaded: LoadedModel, plan: Allocation, engine_name: str, workload: Workload) -> Call:
    plan = plan.model_copy(update={"activations": ()})
    quantizer = MatrixQuantizer(loaded, plan.profile, "rtn", None)
    # the model holds what is stored, since engines find a matrix in the converted graph by its values
    traced = traceable(apply_plan(loaded, plan, quantizer))
    stored = list(quantized_matrices(quantizer, plan))
    module = engine(engine_name)
    with TemporaryDirectory(prefix="qbert-opt-", ignore_cleanup_errors=True) as folder:
        exporting_format(engine_name).write(traced, stored, Path(folder), "int8")
        session = module.open_model(Path(folder), 1, "int8")
    inputs = made_up_inputs(traced.inputs, workload.batch_size, workload.seq_len)
    return lambda: session.run(inputs)
