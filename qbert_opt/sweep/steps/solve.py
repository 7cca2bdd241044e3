"""Choose bit width and grouping for every matrix under the limits, with a proof, as `solve` does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...costs.devices import load_device
from ...costs.workload import workload_of
from ...errors import InputFileError
from ...planning.budgets import parse_budget
from ...planning.constraints import PlanConstraints
from ...spec.activations import activation_choice, selected_activations
from ...spec.allocation import write_allocation
from ...spec.limits import Limits
from ...spec.scores import ScoreTable, read_scores
from ...workflows.solve import check_limits, solve_plans
from ..artifacts import PLAN, SCORES
from ..content import device_sha256
from ..request import Budget, needed_limits
from ..work import Work

if TYPE_CHECKING:
    from hwmodels import Device

KEPT = ()


def make(work: Work, folder: Path) -> None:
    """Write `allocation.json`.

    Args:
        work: the scores; device, engine, budget and workload.
        folder: where to write.

    Raises:
        InfeasibleError: no plan meets the limits; states the nearest feasible value.
        InputFileError: the device file has changed since the sweep began.
    """
    options = work.task.options
    table = read_scores(work.input("score") / SCORES)
    name = work.task.paths["device"]
    device = None if name is None else load_device(name)
    if device is not None and device_sha256(device) != options["device"]:
        raise InputFileError(f"{name}: changed while the sweep was running. Start the sweep again.")
    budget = Budget(**options["budget"])
    sizes = {"encoder_bytes": (budget.budget, table.profile.encoder_elements)}
    sizes["total_bytes"] = (budget.total_budget, table.profile.float_bytes // 4)
    limits = Limits(
        **{field: parse_budget(text, elements, "`budget`") for field, (text, elements) in sizes.items() if text},
        **needed_limits(budget),  # type: ignore[arg-type]
    )
    bits = options["cache_bits"]
    constraints = PlanConstraints(engine=options["engine"], cache_bits=None if bits is None else (bits,))
    check_limits(limits, device, constraints)
    solved = solve_plans(
        table,
        limits,
        device=device,
        workload=workload_of(
            table.profile, options["seq_len"], options["batch_size"], context=options["context"], cache_bits=bits
        ),
        constraints=constraints,
        activations=selected_activations(_widths(table, device), None, table, device),
    )
    write_allocation(solved.plan, folder / PLAN)


def _widths(table: ScoreTable, device: Device | None) -> str | None:
    """Return the bit widths of inputs to choose from: all scored ones if the device's own width was not scored."""
    scored = {activation_choice(name).bits for name in (table.activations.choices if table.activations else ())}
    own = device is None or not scored or device.activation_bits in scored
    return None if own else ",".join(map(str, sorted(scored)))
