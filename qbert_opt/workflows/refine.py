"""Local search on measured loss: scores recomputed around a plan propose swaps, and measurements accept them.

Scores are a local approximation, and whole plans at 2 to 3 bits lie outside its range. Around the plan's own weights W,
for a change δ, the measured loss is L(W) + ⟨∇L, δ⟩ + Ω(δ) to second order: the gradient of the measured loss, and the
directional metric with the factors of the quantized model. Both are computed on the scoring texts, which neither the
quantizer nor the model has seen; a refined plan must therefore be evaluated on other text.
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
from ..models.layers import matrix_of
from ..models.loading import LoadedModel, tokenized
from ..models.outputs import answers, collect
from ..models.tracing import unfrozen
from ..planning.planner import allocation_of
from ..planning.program import PlanningTask
from ..planning.scheduled_limits import broken
from ..planning.solving import Plan, placed, proven_against
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
CHOICES_TOGETHER = 7  # choices of one matrix whose errors are in memory at a time


def refine(
    task: PlanningTask,
    plan: Plan,
    loaded: LoadedModel,
    data: LabeledTexts,
    max_measurements: int,
    progress: Progress = silent,
) -> tuple[Plan, Refinement]:
    """Improve a plan by local search on the loss measured on the scoring texts.

    Args:
        task: the task that `plan` solves; it minimizes the predicted loss.
        plan: the starting point.
        loaded: the model that was scored.
        data: the data set that was scored.
        max_measurements: largest number of plans to measure.
        progress: called with the number of measurements.

    Returns:
        The best measured plan, and what was measured.

    Raises:
        InputFileError: the model or data set is not that of the scores.
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
    """Return the best measured plan under the same limits and constraints, and what was measured.

    Args:
        task: the task that `plan` solves; it minimizes the predicted loss.
        plan: the starting point.
        loaded: the model, in float32.
        quantizer: the one that the scores were computed with.
        scored: the scoring texts.
        max_measurements: largest number of plans to measure, including the first.
        progress: called with measurements done, the largest number, and the current step.
    """
    around = _Around(task, loaded, quantizer, scored)
    done = 0

    def measure(choice: tuple[int, ...]) -> float:
        nonlocal done
        progress(done, max_measurements, "measuring")
        done += 1
        moved = Plan(plan.problem, plan.solution, *placed(task, choice))
        return math.inf if done > 1 and broken(task, moved) else around.measure(choice)

    def propose(choice: tuple[int, ...]) -> NDArray[np.float64]:
        progress(done, max_measurements, "scores around the plan")
        return around.propose(choice, len(plan.problem.options) // len(task.choices))

    start = plan.solution.choice or ()
    refinement = local_search(plan.problem, start, propose, measure, max_measurements)
    if refinement.choice == start:
        return plan, refinement
    value, usage = price(plan.problem, refinement.choice)
    solution = replace(plan.solution, choice=refinement.choice, value=value, usage=usage, binding=())
    solution = proven_against(solution, plan.solution.lower_bound)
    solution = replace(solution, solver=f"{plan.solution.solver}, then {refinement.accepted} measured swaps")
    moved = Plan(plan.problem, solution, *placed(task, refinement.choice))
    return replace(moved, tightened=plan.tightened), refinement


class _Around:
    """A copy of the model that takes the weights of one plan after another."""

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
        self.quantized: dict[tuple[int, Choice], torch.Tensor] = {}
        with torch.no_grad():
            for parameter in self.model.parameters():  # fixed parts are stored in fp16, tables in 8 bits
                parameter.copy_(parameter.half().float())
            for table in set(task.profile.tables) - set(task.searched_tables):
                [stored] = quantize_table(loaded.model, table.module, [TABLE_CHOICE])
                weight_of(self.model, table.module).copy_(stored.dequantize())

    def measure(self, choice: Sequence[int]) -> float:
        """Return the mean loss over all rows of the texts."""
        self._hold(choice)
        with torch.no_grad():
            return self._total(lambda loss: None) / self.rows

    def propose(self, choice: Sequence[int], copies: int) -> NDArray[np.float64]:
        """Return the predicted change of the loss for each option of each matrix, float64 [items, options].

        Args:
            choice: option of each item in the current plan.
            copies: options per choice: 1, or 2 if the program also decides residency.

        Returns:
            NaN for embedding tables, which keep their choice, and for options that are not allowed.
        """
        self._hold(choice)
        changes = np.full((len(self.task.items), len(self.task.choices)), np.nan)
        head, gradient = self.loaded.head, self._gradient()
        for _, inside in groupby(enumerate(self.task.profile.matrices), key=lambda pair: pair[1].block):
            block = list(inside)
            names = [matrix.module for _, matrix in block]
            factors = factor_pass(self.model, self.few, names, head=head)  # at temperature 1, like the measured loss
            for i, matrix in block:
                legal = np.flatnonzero(self.task.legal[i])
                weight = weight_of(self.model, matrix.module)
                for part in np.array_split(legal, math.ceil(len(legal) / CHOICES_TOGETHER)):
                    errors = self.quantizer.errors(matrix, [self.task.choices[j] for j in part])
                    change = errors + (self.quantizer.weight(matrix) - weight)
                    curved = directional.quadratic_forms(factors[matrix.module], change).value
                    straight = change.flatten(1).double() @ gradient[matrix.module].flatten().double()
                    changes[i, part] = (straight + torch.as_tensor(curved)).numpy()
        return np.tile(changes, (1, copies))

    def _gradient(self) -> dict[str, torch.Tensor]:
        """Return the gradient of the measured loss with respect to each matrix at the current weights."""
        names = [matrix.module for matrix in self.task.profile.matrices]
        with unfrozen(self.model), torch.enable_grad():
            self.model.zero_grad(set_to_none=True)
            self._total(lambda loss: (loss / self.rows).backward())
            layers = [self.model.get_submodule(name) for name in names]
            grads = [layer.get_parameter("weight").grad for layer in layers]
        self.model.zero_grad(set_to_none=True)
        found = zip(names, layers, grads, strict=True)
        return {name: matrix_of(layer, grad) for name, layer, grad in found if grad is not None}

    def _total(self, use: Callable[[torch.Tensor], None]) -> float:
        """Return the loss summed over all rows; `use` is called with each batch's loss while it is in the graph."""
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
        """Load the weights of a plan into the model."""
        for i, (item, j) in enumerate(zip(self.task.items, choice, strict=True)):
            choice_of_item = self.task.tables.options[j].choice
            if self.held[i] == choice_of_item:
                continue
            if (i, choice_of_item) not in self.quantized:
                self.quantized[i, choice_of_item] = self._quantized(item, choice_of_item)
            weight_of(self.model, item.module).copy_(self.quantized[i, choice_of_item])
            self.held[i] = choice_of_item

    def _quantized(self, item: MatrixSpec | TableSpec, choice: Choice) -> torch.Tensor:
        if isinstance(item, TableSpec):
            [stored] = quantize_table(self.loaded.model, item.module, [choice])
        else:
            [stored] = self.quantizer.quantize(item, [choice])
        return stored.dequantize()
