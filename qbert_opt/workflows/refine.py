"""A plan improved by measuring: scores taken anew around it propose swaps, and only a lower measured loss keeps one.

Scores are local: at 2 to 3 bits whole plans leave their range. Around the plan's own weights W, changed by δ, the
measured loss is L(W) + ⟨∇L, δ⟩ + Ω(δ) to second order: the gradient of the very loss that is measured, and the
directional form with the factors of the quantized model. Both are taken on the text that scored, which neither the
quantizer nor the model saw; a plan refined on it is to be judged on other text.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray

from solvers import Refinement, price
from solvers import refine as local_search

from ..curvature.factors import factor_pass
from ..data.texts import LabeledTexts
from ..models.loading import LoadedModel, tokenized
from ..models.outputs import answers, collect
from ..models.tracing import unfrozen
from ..planning.planner import allocation_of
from ..planning.program import PlanningTask
from ..planning.scheduled_limits import broken, proven_against
from ..planning.solving import Plan
from ..quantization.calibration import BATCH_SIZE, MatrixQuantizer, quantize_table, weight_of
from ..runtime.progress import Progress, silent
from ..scoring.metrics import directional
from ..scoring.metrics.measured import sample_losses
from ..spec.choices import Choice
from ..spec.profiles import MatrixSpec, TableSpec
from ..spec.tables import TABLE_CHOICE
from .quantize import as_scored, plan_quantizer, plan_texts

CURVATURE_TEXTS = 64
"""Texts of Ω(δ); the gradient and the measurements use all of them."""
CHOICES_TOGETHER = 7  # rounding errors of one matrix held at a time


def refine(
    task: PlanningTask,
    plan: Plan,
    loaded: LoadedModel,
    data: LabeledTexts,
    max_measurements: int,
    progress: Progress = silent,
) -> tuple[Plan, Refinement]:
    """Improve a plan by local search on the measured loss of the text that its scores were made on.

    Args:
        task: what `plan` answers; the predicted loss is minimized.
        plan: where to start.
        loaded: the model that was scored.
        data: the calibration set of the scores.
        max_measurements: plans measured at most.
        progress: told how many are done.

    Raises:
        InputFileError: another model or another calibration set than the scores'.
    """
    allocation = allocation_of(task, plan, answer=False)
    loaded = as_scored(loaded, allocation)
    quantizer = plan_quantizer(loaded, allocation, data)
    _, scored = plan_texts(loaded, allocation, data)
    return refine_plan(task, plan, loaded, quantizer, scored, max_measurements, progress)


def refine_plan(
    task: PlanningTask,
    plan: Plan,
    loaded: LoadedModel,
    quantizer: MatrixQuantizer,
    scored: LabeledTexts,
    max_measurements: int,
    progress: Progress = silent,
) -> tuple[Plan, Refinement]:
    """Return the best plan that was measured, under the same limits and constraints, and what was measured on the way.

    Args:
        task: what `plan` answers; the predicted loss is least.
        plan: where to start.
        loaded: the model, in float32.
        quantizer: the one that the scores were made with.
        scored: the text that the scores were made on.
        max_measurements: plans really measured at most, the first included.
        progress: called with measurements done, measurements at most, and what goes on.
    """
    around = _Around(task, loaded, quantizer, scored)
    done = 0

    def measure(choice: tuple[int, ...]) -> float:
        nonlocal done
        progress(done, max_measurements, "measuring")
        done += 1
        moved = Plan(plan.problem, plan.solution, *task.placed(choice))
        return math.inf if done > 1 and broken(task, moved) else around.measure(choice)

    def propose(choice: tuple[int, ...]) -> NDArray[np.float64]:
        progress(done, max_measurements, "scores around the plan")
        return around.propose(choice, len(plan.problem.options) // len(task.choices))

    start = plan.solution.choice or ()
    found = local_search(plan.problem, start, propose, measure, max_measurements)
    if found.choice == start:
        return plan, found
    value, usage = price(plan.problem, found.choice)
    solution = replace(plan.solution, choice=found.choice, value=value, usage=usage, binding=())
    solution = proven_against(solution, plan.solution.lower_bound)
    solution = replace(solution, solver=f"{plan.solution.solver}, then {found.accepted} measured swaps")
    return Plan(plan.problem, solution, *task.placed(found.choice), plan.tightened), found


class _Around:
    """A copy of the model that holds the weights of one plan after the other."""

    def __init__(
        self, task: PlanningTask, loaded: LoadedModel, quantizer: MatrixQuantizer, scored: LabeledTexts
    ) -> None:
        self.task, self.loaded, self.quantizer = task, loaded, quantizer
        self.batches = tokenized(loaded, scored.texts, batch_size=BATCH_SIZE)
        few = scored.texts[:CURVATURE_TEXTS]
        self.few = tokenized(loaded, few, batch_size=BATCH_SIZE)
        self.truth = [collect(loaded.head, loaded.model, [batch]) for batch in self.batches]
        self.rows = sum(len(part.values) for part in self.truth)
        self.model = copy.deepcopy(loaded.model)
        self.held: list[Choice | None] = [None] * len(task.items)
        self.known: dict[tuple[int, Choice], torch.Tensor] = {}
        with torch.no_grad():
            for parameter in self.model.parameters():  # what is not searched is stored in fp16, or in 8 bits
                parameter.copy_(parameter.half().float())
            for table in set(task.profile.tables) - set(task.searched_tables):
                [stored] = quantize_table(loaded.model, table.module, [TABLE_CHOICE])
                weight_of(self.model, table.module).copy_(stored.dequantize())

    def measure(self, choice: Sequence[int]) -> float:
        """Mean loss over all rows of the text, float64."""
        self._hold(choice)
        with torch.no_grad():
            return self._total(lambda loss: None) / self.rows

    def propose(self, choice: Sequence[int], copies: int) -> NDArray[np.float64]:
        """Return the predicted change of the loss for each option of each matrix, float64 [items, options].

        NaN for embedding tables, which keep their choice, and for what is not allowed. `copies` of the choices are
        the options: streamed, and resident where the program decides that too.
        """
        self._hold(choice)
        found = np.full((len(self.task.items), len(self.task.choices)), np.nan)
        head, gradient = self.loaded.head, self._gradient()
        for _, inside in groupby(enumerate(self.task.profile.matrices), key=lambda pair: pair[1].block):
            block = list(inside)
            names = [matrix.module for _, matrix in block]
            factors = factor_pass(self.model, self.few, names, head=head)  # at temperature 1: the measured loss's own
            for i, matrix in block:
                legal = np.flatnonzero(self.task.legal[i])
                weight = weight_of(self.model, matrix.module)
                for part in np.array_split(legal, math.ceil(len(legal) / CHOICES_TOGETHER)):
                    errors = self.quantizer.errors(matrix, [self.task.choices[j] for j in part])
                    change = errors + (self.quantizer.weight(matrix) - weight)
                    curved = directional.quadratic_forms(factors[matrix.module], change).value
                    straight = change.flatten(1).double() @ gradient[matrix.module].flatten().double()
                    found[i, part] = (straight + torch.as_tensor(curved)).numpy()
        return np.tile(found, (1, copies))

    def _gradient(self) -> dict[str, torch.Tensor]:
        """Gradient of the measured loss by each matrix at the held weights."""
        names = [matrix.module for matrix in self.task.profile.matrices]
        with unfrozen(self.model), torch.enable_grad():
            self.model.zero_grad(set_to_none=True)
            self._total(lambda loss: (loss / self.rows).backward())
            grads = [self.model.get_parameter(f"{name}.weight").grad for name in names]
        self.model.zero_grad(set_to_none=True)
        return {name: grad for name, grad in zip(names, grads, strict=True) if grad is not None}

    def _total(self, use: Callable[[torch.Tensor], None]) -> float:
        """Sum the loss over all rows, batch by batch; `use` gets each batch's while it is in the graph."""
        total = 0.0
        for batch, before in zip(self.batches, self.truth, strict=True):
            now = answers(self.loaded.head, self.model, batch)
            order = now.samples.argsort(stable=True)
            now = replace(now, values=now.values[order], samples=now.samples[order])
            loss = sample_losses(before, now).sum() * (len(before.values) / before.num_samples)
            use(loss)
            total += float(loss.detach())
        return total

    def _hold(self, choice: Sequence[int]) -> None:
        """Put the weights of a plan into the model."""
        for i, (item, j) in enumerate(zip(self.task.items, choice, strict=True)):
            wanted = self.task.tables.options[j].choice
            if self.held[i] == wanted:
                continue
            if (i, wanted) not in self.known:
                self.known[i, wanted] = self._quantized(item, wanted)
            weight_of(self.model, item.module).copy_(self.known[i, wanted])
            self.held[i] = wanted

    def _quantized(self, item: MatrixSpec | TableSpec, wanted: Choice) -> torch.Tensor:
        if isinstance(item, TableSpec):
            [found] = quantize_table(self.loaded.model, item.module, [wanted])
        else:
            [found] = self.quantizer.quantize(item, [wanted])
        return found.dequantize()
