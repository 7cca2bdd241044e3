"""What `selection.py score` kept of a pool of texts, and how plans are chosen from scores of a part of it."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qbert_opt.planning.cross_fit import loss_of
from qbert_opt.planning.program import PlanningTask
from qbert_opt.runtime.provenance import code_commit, today
from qbert_opt.spec.choices import Choice, choice
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.profiles import ModelProfile
from qbert_opt.spec.score_parts import Provenance
from qbert_opt.spec.scores import ScoreTable
from solvers import solve

FOLDS = 8
UNIFORM = "2bit/rows:each/gptq"
GRIDS = ("", "rows:each", "rows")
Table = NDArray[np.float64]


@dataclass(frozen=True)
class Pool:
    """What `score` kept: losses [texts, matrices, choices] softened and at temperature 1, rows of each text, ‖ΔW‖².

    Of two classes also the signed root of twice the loss at temperature 1, `signed`: half the square of its sum over
    the matrices is the second-order loss of the whole plan, with what the matrices do to each other.
    """

    folder: Path
    about: dict[str, Any]
    softened: Table
    sharp: Table
    signed: Table
    rows: Table
    norms: Table

    @staticmethod
    def read(folder: Path) -> "Pool":
        stored = np.load(folder / "pool.npz")
        about = json.loads((folder / "about.json").read_text())
        return Pool(folder, about, *stored["losses"], stored["signed"], stored["rows"], stored["norms"])

    @property
    def choices(self) -> list[Choice]:
        return [choice(name) for name in self.about["choices"]]

    def mean(self, losses: Table, texts: NDArray[np.intp]) -> Table:
        found: Table = losses[texts].sum(0) / self.rows[texts].sum()
        return found

    def table(self, losses: Table, texts: NDArray[np.intp]) -> ScoreTable:
        """The score table that these texts give."""
        folds = [self.mean(losses, texts[k::FOLDS]) for k in range(FOLDS)]
        as_rows: Callable[[Table], Any] = lambda array: tuple(map(tuple, array.tolist()))  # noqa: E731
        value = as_rows(self.mean(losses, texts))
        source = Provenance(
            data=self.about["pool"], data_sha256="", num_scored=len(texts), num_calibration=self.about["fit"],
            mean_tokens=0.0, mean_confidence=None, scored_accuracy=None, seed=self.about["seed"], commit=code_commit(),
            version="", date=today(),
        )  # fmt: skip
        return ScoreTable(
            metric="directional", method="gptq", loss_unit="nats", contains="", choices=tuple(self.about["choices"]),
            profile=ModelProfile.model_validate(self.about["profile"]), value=value, std_error=value,
            weight_error=as_rows(self.norms), fold_value=tuple(map(as_rows, folds)), provenance=source,
        )  # fmt: skip


def effects(norms: Table) -> Table:
    """Orthonormal basis of what matrices, choices and log ‖ΔW‖² explain, [matrices × choices, effects]."""
    matrices, choices = norms.shape
    columns = [
        np.repeat(np.eye(matrices), choices, 0),
        np.tile(np.eye(choices), (matrices, 1)),
        np.log(norms).reshape(-1, 1),
    ]
    left, sizes, _ = np.linalg.svd(np.hstack(columns), full_matrices=False)
    return left[:, sizes > 1e-9 * sizes.max()]


def pooled(folds: Table, norms: Table, *, smooth: bool = False) -> Table:
    """Partially pooled scores from those on each fold: the residual is shrunk by its noise, which the jackknife gives.

    Empirical Bayes (Efron and Morris 1975) on the logarithms; the noise of a residual is the mean over a matrix'
    choices. With `smooth` nothing is left of the residual.
    """
    basis, count = effects(norms), len(folds)

    def split(mean: Table) -> tuple[Table, Table]:
        logs = np.log(mean).ravel()
        fit = basis @ (basis.T @ logs)
        return fit, logs - fit

    fit, residual = split(folds.mean(0))
    without = np.array([split(np.delete(folds, k, 0).mean(0))[1] for k in range(count)])
    noise = ((count - 1) * without.var(0)).reshape(norms.shape).mean(1).repeat(norms.shape[1])
    spread = 0.0 if smooth else max(0.0, float((residual**2).mean() - noise.mean()))
    found: Table = np.exp(fit + residual * spread / (spread + noise)).reshape(norms.shape)
    return found


@dataclass(frozen=True)
class Drawn:
    """One scoring set at one budget, and how plans are chosen from it."""

    pool: Pool
    table: ScoreTable
    bits: float

    def chosen(self, values: Table, groupings: str = "") -> tuple[int, ...] | None:
        limits = Limits(encoder_bytes=int(self.bits * self.table.profile.encoder_elements / 8))
        task = PlanningTask(self.table, limits)
        kept = [c.grouping.startswith(groupings) for c in self.pool.choices]
        problem = task.problem(task.capacity())
        problem = replace(problem, value=np.where(kept, values, np.nan), allowed=problem.mask() & kept)
        return solve(problem, relative_gap=1e-4, time_limit_s=20.0).choice

    def judged(self, groupings: str) -> tuple[float, float]:
        """Cross-fitted loss of plans from pooled scores on a grid, and its standard error."""
        folds, held_out = self.table.item_folds(), []
        for k, fold in enumerate(folds):
            plan = self.chosen(pooled(np.delete(folds, k, 0), self.pool.norms), groupings)
            held_out.append(np.inf if plan is None else loss_of(fold, np.array(plan)))
        return float(np.mean(held_out)), float(np.std(held_out, ddof=1) * (1 / FOLDS + 1 / (FOLDS - 1)) ** 0.5)

    def plans(self) -> Iterator[tuple[str, tuple[int, ...] | None, dict[str, Any]]]:
        folds, raw, norms = self.table.item_folds(), self.table.values(), self.pool.norms
        for grid_name in GRIDS:
            yield f"unpooled, {grid_name or 'all'}", self.chosen(raw, grid_name), {}
        cross_fitted = {name: self.judged(name) for name in GRIDS}
        own = {"predicted": cross_fitted[""][0], "std_error": cross_fitted[""][1]}
        yield "pooled, all", self.chosen(pooled(folds, norms)), own
        yield "pooled, rows:each", self.chosen(pooled(folds, norms), "rows:each"), {}
        best = min(cross_fitted, key=lambda name: cross_fitted[name][0])
        yield "cross-fitted", self.chosen(pooled(folds, norms), best), {"grid": best or "all"}
        yield "smooth, all", self.chosen(pooled(folds, norms, smooth=True)), {}
        yield UNIFORM, (self.table.choices.index(UNIFORM),) * len(raw), {}
