"""The interface of metrics: the scoring task they receive and the estimates they return."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from ..curvature.columns import FactorPlan
from ..curvature.sharing import softened
from ..models.batches import TokenBatch
from ..models.outputs import Head, head_of
from ..models.targets import Targets
from ..runtime.memory_budget import MemoryShares
from ..runtime.plugins import load_as
from ..runtime.resumable import Jobs
from ..spec.activations import ActivationChoice
from ..spec.choices import Choice
from ..spec.profiles import MatrixSpec, ModelProfile
from ..spec.score_parts import ActivationScores, BlockSensitivity, CacheScores, MatrixCurvature, TableScores
from .folds import fold_means, group_sums
from .pool import Drawn

LEAST_LOSS = 1e-150  # its square is a number


@dataclass(frozen=True, slots=True)
class Estimate:
    """Scores of one matrix under its choices.

    Attributes:
        value: scores, at least 0, float64 `[choices]`.
        std_error: their standard errors over samples or slices, float64 `[choices]`.
        samples: number of scored texts; 0 for data-free scores.
        folds: scores on each of a few nearly equal folds of the texts, float64 `[folds, choices]`; empty if there are
            too few samples, or if the score is not a mean over samples.
        sharp_folds: the same at temperature 1, if `value` is softened; else empty.
        effective_samples: Kish's effective sample size (Σ loss)² / Σ loss², median over choices.
    """

    value: torch.Tensor
    std_error: torch.Tensor
    samples: int = 0
    folds: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.float64))
    sharp_folds: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.float64))
    effective_samples: float = 0.0

    @staticmethod
    def over(
        losses: torch.Tensor,
        sharp: torch.Tensor | None = None,
        *,
        groups: Sequence[int] = (),
        drawn: Drawn | None = None,
    ) -> Estimate:
        """Return the mean over samples, its standard error over independent groups of samples, and the means of folds.

        Args:
            losses: float64 `[N, choices]`, in order of the samples.
            sharp: the same at temperature 1, if `losses` are softened.
            groups: which samples share text, see `folds.sample_groups`; empty if none do.
            drawn: how the samples were drawn from a pool, if the losses are weighted.
        """
        groups = groups or range(len(losses))
        unsoftened = group_sums(losses if sharp is None else sharp, groups)
        squares = unsoftened.square().sum(0)
        effective = torch.where(squares > 0, unsoftened.sum(0).square() / squares, 0.0)
        deviations = group_sums(losses - losses.mean(0), groups)
        count = len(deviations)
        variance = deviations.square().sum(0) * (count / (count - 1) if count > 1 else float("nan"))
        variance = variance / len(losses) ** 2
        if drawn is not None:
            variance, sharp_mean = drawn.variance(losses), unsoftened.mean(0).clamp_min(LEAST_LOSS)
            effective = 1 / (drawn.variance(unsoftened) / sharp_mean.square() + 1 / len(losses))
        return Estimate(
            losses.mean(0),
            variance.sqrt(),
            len(losses),
            fold_means(losses, groups),
            fold_means(losses[:, :0] if sharp is None else sharp, groups),
            float(effective.median()),
        )


@dataclass(slots=True)
class ScoringTask:
    """A model, the scoring texts, and the quantization errors to score.

    Attributes:
        model: in evaluation mode.
        profile: its shapes.
        batches: scoring texts.
        targets: their labels; None if the data has none.
        perturbations: yields ΔW of one matrix under its choices, a few choices at a time, float32 `[choices, rows,
            columns]`; together these are all choices in order.
        shares: memory that a metric may use.
        seed: of all random draws.
        jobs: work that is shared between processes and not repeated after an interruption.
        note: called with the current step.
        block_sensitivity: filled by metrics that score encoder layers.
        curvature: filled by metrics that compute a curvature of each matrix.
        warnings: filled with warnings for the user of the scores.
        given_head: how the model's outputs are read; determined by the model's class if None.
        given_factors: how the output Hessian is factored, see `factors`; None: alike for all samples.
        with_curvature: whether the metric should also fill `curvature`.
        groups: which samples share text, see `folds.sample_groups`; empty if none do.
        drawn: how the scoring texts were drawn from a pool; None: evenly. Their weights are in the factors.
        sizes: bytes of a matrix under its choices, in the order of `perturbations`, by module.
        budget_bytes: of all matrices together, for metrics that learn at one; None if there is none.
    """

    model: nn.Module
    profile: ModelProfile
    batches: Sequence[TokenBatch]
    targets: Targets | None
    perturbations: Callable[[MatrixSpec], Iterator[torch.Tensor]]
    shares: MemoryShares
    seed: int
    jobs: Jobs = field(default_factory=lambda: Jobs(None, ""))
    note: Callable[[str], None] = lambda _text: None
    block_sensitivity: list[BlockSensitivity] = field(default_factory=list)
    curvature: list[MatrixCurvature] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    given_head: Head | None = None
    given_factors: FactorPlan | None = None
    with_curvature: bool = False
    groups: Sequence[int] = ()
    drawn: Drawn | None = None
    sizes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    budget_bytes: int | None = None

    @property
    def head(self) -> Head:
        """How the model's outputs are read."""
        return self.given_head or head_of(self.model)

    @property
    def factors(self) -> FactorPlan:
        """How the output Hessian is factored, and how many back-propagations each sample gets."""
        return self.given_factors or softened(self.head)

    @property
    def num_samples(self) -> int:
        """Number of scoring texts."""
        return sum(len(batch.indices) for batch in self.batches)

    def estimate(self, losses: torch.Tensor, sharp: torch.Tensor | None = None) -> Estimate:
        """Return the mean over the scoring texts, with a standard error that accounts for how they were drawn.

        Args:
            losses: float64 `[N, choices]`, in order of the samples.
            sharp: the same at temperature 1, if `losses` are softened.
        """
        return Estimate.over(losses, sharp, groups=self.groups, drawn=self.drawn)

    def right_answers(self) -> Targets:
        """Return the labels, for metrics whose loss is the training loss.

        Raises:
            ValueError: there are none.
        """
        if self.targets is None:
            raise ValueError("this metric needs labels: its Hessian is that of the training loss")
        return self.targets

    def given_budget(self) -> int:
        """Return the budget in bytes, for metrics that learn at one.

        Raises:
            ValueError: there is none.
        """
        if self.budget_bytes is None:
            raise ValueError("this metric needs a budget: its scores are learned at one")
        return self.budget_bytes

    def squared_errors(self, matrix: MatrixSpec) -> torch.Tensor:
        """Return ‖ΔW‖² of each choice, float64 `[choices]`.

        Args:
            matrix: one of the profile's.
        """
        return torch.cat([errors.flatten(1).double().square().sum(1) for errors in self.perturbations(matrix)])


class Metric(Protocol):
    """An estimator of the loss of a choice: one file of `scoring/metrics`.

    Attributes:
        LOSS_UNIT: unit of its scores.
        CONTAINS: which quantization errors its scores include, for the report.
        NEEDS_LABELS: whether it takes the Hessian of the training loss, which needs labels for outputs with a softmax.
    """

    LOSS_UNIT: str
    CONTAINS: str
    NEEDS_LABELS: bool

    def score(self, task: ScoringTask, pending: Sequence[int], /) -> Iterator[tuple[int, Estimate]]:
        """Yield (matrix index, estimate of every choice) for each pending matrix, in any order.

        Args:
            task: model, texts and quantization errors.
            pending: indices of the matrices to score, in `task.profile.matrices`.
        """
        ...


@runtime_checkable
class ScoresTables(Protocol):
    """A metric that can also score embedding tables."""

    def score_tables(self, task: ScoringTask, choices: Sequence[Choice], /) -> TableScores | None:
        """Score each table under each choice; None if the model has no table to score.

        Args:
            task: model and texts.
            choices: choices of the tables, all of one quantizer.
        """
        ...


@runtime_checkable
class ScoresActivations(Protocol):
    """A metric that can also score rounded inputs of matrices."""

    def score_activations(
        self, task: ScoringTask, batches: Sequence[TokenBatch], choices: Sequence[ActivationChoice], /
    ) -> ActivationScores | None:
        """Score each quantized input under each choice.

        Args:
            task: model and texts.
            batches: calibration set, which fixes the static ranges.
            choices: choices of the inputs.
        """
        ...


@runtime_checkable
class ScoresCache(Protocol):
    """A metric that can also score a decoder's cache of keys and values."""

    def score_cache(self, task: ScoringTask, /) -> CacheScores | None:
        """Score each width of the cache.

        Args:
            task: model and texts.
        """
        ...


@runtime_checkable
class RecordsCurvature(Protocol):
    """A metric that can record the Gauss-Newton trace and top eigenvalue of each matrix along with its scores."""

    GIVES_CURVATURE: bool


@runtime_checkable
class ReadsFactors(Protocol):
    """A metric that back-propagates `ScoringTask.factors`, so that each sample's share and weight are in its scores."""

    READS_FACTORS: bool


@runtime_checkable
class ReadsPages(Protocol):
    """A metric that only reads weights, in passes whose activations may be on disk, so it works on paged models."""

    PAGEABLE: bool


@runtime_checkable
class LearnsAtBudget(Protocol):
    """A metric whose scores are learned at one budget, `ScoringTask.budget_bytes`."""

    NEEDS_BUDGET: bool


def metric_named(name: str) -> Metric:
    """Load a metric by name.

    Args:
        name: of a file in `scoring/metrics`, or of an entry point.

    Raises:
        UsageError: there is no such metric.
    """
    return load_as("metrics", name, Metric)
