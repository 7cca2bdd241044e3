"""Plans made by the rules of the papers instead of by a solver, for comparison.

`qbert-2/3` and `qbert-2/4`: the k encoder layers of largest Ω have the high width and the others 2 bits, with 128 row
groups (Shen et al. 2020, section 4.1). k is the largest number that the byte budget allows; half of the layers without
a budget.
`uniform:3bit/columns:64/gptq` gives every matrix that choice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..costs.operations import Storage
from ..costs.phases import simulate_phases
from ..costs.workload import Workload, in_phase
from ..errors import InfeasibleError, UsageError
from ..runtime.provenance import code_commit, code_version, today
from ..spec.activations import ActivationChoice, input_bits, planned_activations
from ..spec.allocation import Allocation
from ..spec.choices import Choice, choice
from ..spec.limits import Limits
from ..spec.profiles import ModelProfile
from ..spec.score_parts import Provenance
from ..spec.scores import ScoreTable
from .assembly import Proof, assemble, with_activations
from .plan_bytes import stored_bytes

if TYPE_CHECKING:
    from hwmodels import Device

RECIPES = {"qbert-2/3": (2, 3), "qbert-2/4": (2, 4)}
GROUPING = "rows:128"
UNIFORM = "uniform:"


def recipe_allocation(
    scores: ScoreTable,
    recipe: str,
    limits: Limits,
    *,
    device: Device | None = None,
    workload: Workload | None = None,
    activations: Sequence[ActivationChoice] = (),
) -> Allocation:
    """Make a plan by a paper's rule.

    Args:
        scores: a table of metric `qbert`, which holds Ω of each encoder layer.
        recipe: a name in `RECIPES`, or `uniform:CHOICE`.
        limits: only the byte budgets are used.
        device: device on which to predict the plan's cost; None predicts none.
        workload: sentences and tokens of one inference; None is one sentence of 128 tokens.
        activations: choices for the inputs of matrices; empty leaves the inputs in floating point.

    Raises:
        UsageError: unknown recipe, or scores without Ω or without the recipe's choices.
        InfeasibleError: the budget is too small even with all layers at the low width.
    """
    if activations:
        plain = recipe_allocation(scores, recipe, limits)
        planned = planned_activations(scores, activations, plain.predicted_loss)
        read = replace(workload or Workload(), input_bits=input_bits(planned))
        return with_activations(recipe_allocation(scores, recipe, limits, device=device, workload=read), planned)
    if recipe.startswith(UNIFORM):
        plan = uniform_allocation(scores, choice(recipe.removeprefix(UNIFORM)), device=device, workload=workload)
        for size, most in ((plan.encoder_bytes, limits.encoder_bytes), (plan.total_bytes, limits.total_bytes)):
            if most is not None and size > most:
                raise InfeasibleError(f"`recipe` {recipe}: takes {size} bytes, the budget is {most}.")
        return plan
    if recipe not in RECIPES:
        raise UsageError(f"`recipe` {recipe}: legal: {', '.join(RECIPES)}, {UNIFORM}CHOICE.")
    if not scores.block_sensitivity:
        raise UsageError(f"`recipe` {recipe}: needs scores of `metric` qbert; these are of metric {scores.metric}.")
    low, high = (Choice(bits, GROUPING, scores.method) for bits in RECIPES[recipe])
    for c in (low, high):
        if c.name not in scores.choices:
            raise UsageError(f"`recipe` {recipe}: {c.name} was not scored. Score bits {c.bits} with {GROUPING}.")
    order = [s.block for s in sorted(scores.block_sensitivity, key=lambda s: -s.omega)]
    capacity = min(
        math.inf if limits.encoder_bytes is None else limits.encoder_bytes,
        math.inf if limits.total_bytes is None else limits.total_bytes - scores.profile.fixed_bytes,
    )
    counts = range(len(order), -1, -1) if capacity < math.inf else [len(order) // 2]
    for count in counts:
        storage = _storage(scores, set(order[:count]), low, high)
        if stored_bytes(scores.profile, storage) <= capacity:
            return _unproven(scores, storage, device, workload, f"recipe {recipe}")
    least = stored_bytes(scores.profile, _storage(scores, set(), low, high))
    raise InfeasibleError(
        f"`recipe` {recipe}: needs at least {least} bytes for the encoder, the budget is {capacity:.0f}."
    )


def uniform_allocation(
    scores: ScoreTable,
    choice: Choice,
    *,
    device: Device | None = None,
    workload: Workload | None = None,
    tables: Mapping[str, Choice] | None = None,
) -> Allocation:
    """Make the plan that gives every matrix the same choice.

    Args:
        scores: predicted losses.
        choice: the choice of every matrix.
        device: device on which to predict the plan's cost; None predicts none.
        workload: sentences and tokens of one inference; None is one sentence of 128 tokens.
        tables: choices of tables by module, where not 8 bits with an offset per row.

    Raises:
        UsageError: the choice was not scored, or some matrix cannot have it.
    """
    if choice.name not in scores.choices:
        raise UsageError(f"{choice.name} was not scored. Scored: {', '.join(scores.choices)}.")
    storage = {m.module: Storage(choice) for m in scores.profile.matrices}
    storage |= {module: Storage(stored) for module, stored in (tables or {}).items()}
    return _unproven(scores, storage, device, workload, f"uniform {choice.name}")


def _storage(scores: ScoreTable, blocks: set[int], low: Choice, high: Choice) -> dict[str, Storage]:
    return {m.module: Storage(high if m.block in blocks else low) for m in scores.profile.matrices}


def _unproven(
    scores: ScoreTable, storage: dict[str, Storage], device: Device | None, workload: Workload | None, maker: str
) -> Allocation:
    workload = in_phase(scores.profile, workload or Workload())
    report, token = (None, None) if device is None else simulate_phases(scores.profile, storage, device, workload)
    return assemble(scores, storage, Proof("unproven", maker), report, workload, token=token)


def given_allocation(profile: ModelProfile, choices: Mapping[str, Choice]) -> Allocation:
    """Make a plan from given choices; it has no predicted loss and no proof.

    Args:
        profile: shapes of the model.
        choices: the choice of each matrix, by module, and of tables that should not have 8 bits.

    Raises:
        UsageError: a matrix has no choice, a choice is for no part of the model, the choices of matrices use several
            quantizers, or a grouping does not divide its matrix.
    """
    missing = [m.module for m in profile.matrices if m.module not in choices]
    tables = [table.module for table in profile.tables if table.module in choices]
    unknown = sorted(set(choices) - {m.module for m in profile.matrices} - set(tables))
    if unknown:
        raise UsageError(f"given plan: {unknown[0]} is neither a matrix nor a table of {profile.name}.")
    methods = {choices[m.module].method for m in profile.matrices if m.module in choices}
    if missing or len(methods) != 1:
        raise UsageError(f"given plan: {f'{missing[0]} has no choice' if missing else f'methods {sorted(methods)}'}.")
    names = tuple(dict.fromkeys(choices[m.module].name for m in profile.matrices))
    blank = tuple((0.0,) * len(names) for _ in profile.matrices)
    scores = ScoreTable(
        metric="none",
        method=methods.pop(),
        loss_unit="none",
        contains="nothing is predicted",
        profile=profile,
        choices=names,
        value=blank,
        std_error=blank,
        weight_error=blank,
        provenance=Provenance(
            data="none", data_sha256="", num_scored=0, num_calibration=0, mean_tokens=0.0, mean_confidence=0.0,
            scored_accuracy=None, seed=0, commit=code_commit(), version=code_version(), date=today(),
        ),
    )  # fmt: skip
    storage = {name: Storage(choices[name]) for name in (*(m.module for m in profile.matrices), *tables)}
    return _unproven(scores, storage, None, None, "given by hand")
