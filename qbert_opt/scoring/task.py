"""What every metric is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from ..models.batches import TokenBatch
from ..models.outputs import Head, head_of
from ..models.targets import Targets
from ..runtime.memory_budget import MemoryShares
from ..runtime.plugins import load_as
from ..runtime.resumable import Jobs
from ..spec.activations import ActivationChoice
from ..spec.choices import Choice
from ..spec.profiles import MatrixSpec, ModelProfile
from ..spec.scores import ActivationScores, BlockSensitivity, MatrixCurvature, TableScores

NUM_FOLDS = 8
MIN_FOLD_SAMPLES = 2


@dataclass(frozen=True, slots=True)
class Estimate:
    """Scores of one matrix under its choices.

    Attributes:
        value: float64 `[choices]`.
        std_error: float64 `[choices]`, over samples or slices.
        samples: texts that the estimate is from; 0 when it looks at no text.
        folds: float64 `[folds, choices]`, the value on each of a few equal parts of the text; no fold where there are
            too few samples, or where the value is no mean over samples.
        sharp_folds: the same for KL's own curvature, where `value` is of a softened one; else no fold.
        effective_samples: Kish's (Σ loss)² / Σ loss², in the median of the choices: how many texts carry the value.
    """

    value: torch.Tensor
    std_error: torch.Tensor
    samples: int = 0
    folds: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.float64))
    sharp_folds: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.float64))
    effective_samples: float = 0.0

    @staticmethod
    def over(losses: torch.Tensor, sharp: torch.Tensor | None = None) -> Estimate:
        """Mean and standard error of independent samples, and the mean of every eighth.

        Args:
            losses: float64 `[N, choices]`, in order of the samples.
            sharp: the same by KL's own curvature, where `losses` are by a softened one.
        """
        carried = losses if sharp is None else sharp
        squares = carried.square().sum(0)
        effective = torch.where(squares > 0, carried.sum(0).square() / squares, 0.0)
        return Estimate(
            losses.mean(0),
            losses.std(0) / len(losses) ** 0.5,
            len(losses),
            fold_means(losses),
            fold_means(losses[:, :0] if sharp is None else sharp),
            float(effective.median()),
        )


def fold_means(losses: torch.Tensor) -> torch.Tensor:
    """Mean over every eighth sample from each start, `[8, choices]`; no row where a fold would have under two."""
    if len(losses) < NUM_FOLDS * MIN_FOLD_SAMPLES or not losses.shape[1]:
        return losses[:0]
    return torch.stack([losses[start::NUM_FOLDS].mean(0) for start in range(NUM_FOLDS)])


@dataclass(slots=True)
class ScoringTask:
    """A model, the text that scores, and the rounding errors to be scored.

    Attributes:
        model: in evaluation mode.
        profile: its shapes.
        batches: scoring samples.
        targets: the right answers, or None when the data has none.
        perturbations: gives ΔW of one matrix under its choices, a few choices at a time, float32 `[choices, rows,
            columns]`; the parts together are all choices in order.
        shares: what a metric may keep at a time.
        seed: of every random draw.
        jobs: work to be shared between processes and not repeated after an interruption.
        note: called with what goes on.
        block_sensitivity: filled by metrics that score encoder layers.
        carrying: samples whose output columns are all back-propagated, see `curvature.columns`; None: all.
        with_curvature: the metric shall also fill `curvature`, if it can.
        given_head: how the model's answers are read; by its class when None.
        curvature: filled by metrics that know a curvature of each matrix.
        warnings: filled with what the user should know about the scores.
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
    carrying: frozenset[int] | None = None
    with_curvature: bool = False

    @property
    def head(self) -> Head:
        """How the model's answers are read."""
        return self.given_head or head_of(self.model)

    @property
    def num_samples(self) -> int:
        """Texts that score."""
        return sum(len(batch.indices) for batch in self.batches)

    def right_answers(self) -> Targets:
        """The right answers, for metrics whose loss is the training loss."""
        if self.targets is None:
            raise ValueError("this metric needs labels: its Hessian is that of the training loss")
        return self.targets

    def squared_errors(self, matrix: MatrixSpec) -> torch.Tensor:
        """‖ΔW‖² of each choice, float64 `[choices]`."""
        return torch.cat([errors.flatten(1).double().square().sum(1) for errors in self.perturbations(matrix)])


class Metric(Protocol):
    """An estimator of the loss that a choice costs: one file of `scoring/metrics`.

    Attributes:
        LOSS_UNIT: unit of its scores.
        CONTAINS: which roundings its scores contain, for the report.
        NEEDS_LABELS: whether it differentiates the labelled training loss.
    """

    LOSS_UNIT: str
    CONTAINS: str
    NEEDS_LABELS: bool

    def score(self, task: ScoringTask, pending: Sequence[int], /) -> Iterator[tuple[int, Estimate]]:
        """Yield (matrix index, estimate of every choice) for each pending matrix, in any order."""
        ...


@runtime_checkable
class ScoresTables(Protocol):
    """A metric that scores embedding tables too."""

    def score_tables(self, task: ScoringTask, choices: Sequence[Choice], /) -> TableScores | None:
        """Score each table under each choice; None where the model has none."""
        ...


@runtime_checkable
class ScoresActivations(Protocol):
    """A metric that scores rounded inputs of matrices too."""

    def score_activations(
        self, task: ScoringTask, batches: Sequence[TokenBatch], choices: Sequence[ActivationChoice], /
    ) -> ActivationScores | None:
        """Score each input under each choice, its ranges found on `batches`."""
        ...


@runtime_checkable
class RecordsCurvature(Protocol):
    """A metric that can record the Gauss-Newton trace and top eigenvalue of each matrix beside its scores."""

    GIVES_CURVATURE: bool


def metric_named(name: str) -> Metric:
    """Load a metric by name.

    Raises:
        UsageError: there is no such metric.
    """
    return load_as("metrics", name, Metric)
