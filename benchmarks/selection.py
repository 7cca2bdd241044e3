"""Does a wide grid of choices pay? Plans of several ways to choose from the same scores, measured on unseen text.

    python benchmarks/selection.py score MODEL POOL FOLDER --fit N --pool N [--text-column C] [--label-column C]
    python benchmarks/selection.py compare FOLDER TEST -o results.jsonl --scored N --draws N --measured N

`score` quantizes every matrix under every choice (`gptq`, 2, 3 and 4 bits; 8 are left out) with N texts of POOL, and
keeps the second-order loss of each other text, matrix and choice: once, so that every way to choose sees the same.
`compare` draws texts from these as a scoring set, makes the plans of each way, and measures each plan's KL on TEST; the
rest of the pool judges it too, without running it. Tables and all other tensors are in fp16 and in no figure.

Ways: `unpooled` scores or `pooled` ones (the default), on all choices, `rows:each` only, all rows;
`cross-fitted`, the grid whose plan has the least cross-fitted loss; `smooth`, without any residual; the uniform plan of
2 bits and `rows:each`, which no text chose. For tags both softmax temperatures are recorded (`--temperature`).
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qbert_opt.curvature.columns import FactorPlan, carrying_samples, exact_factors, softened
from qbert_opt.curvature.factors import factor_pass
from qbert_opt.data.texts import read_texts
from qbert_opt.evaluation.evaluate import evaluation_batches
from qbert_opt.evaluation.intervals import ratio_interval
from qbert_opt.models.batches import apart, single_samples
from qbert_opt.models.heads import KINDS
from qbert_opt.models.heads.protocol import per_text
from qbert_opt.models.loading import load_model, tokenized
from qbert_opt.models.outputs import collect, rows_per_sample
from qbert_opt.models.structure import profile_model
from qbert_opt.planning.cross_fit import loss_of
from qbert_opt.planning.program import PlanningTask
from qbert_opt.quantization.calibration import CalibrationPlan, MatrixQuantizer, calibration_texts, weight_of
from qbert_opt.runtime.provenance import code_commit, today
from qbert_opt.scoring.metrics.directional import both_losses
from qbert_opt.spec.choices import Choice, choice, grid
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.pooling import Pooling
from qbert_opt.spec.profiles import ModelProfile
from qbert_opt.spec.score_parts import Provenance
from qbert_opt.spec.scores import ScoreTable
from solvers import solve

BITS = (2, 3, 4)
GROUPINGS = ("rows:1", "rows:heads", "rows:128", "rows:each", "columns:32", "columns:64", "columns:128")
BUDGETS = (2.25, 2.5, 3.0)
FOLDS = 8
UNIFORM = "2bit/rows:each/gptq"
TOKENS_AT_A_TIME = 6000
Table = NDArray[np.float64]


def score(options: argparse.Namespace) -> None:
    """Quantize each matrix under each choice, and keep the loss of every text."""
    loaded = load_model(options.model)
    data = read_texts(options.pool, text_columns=options.text_column, label_column=options.label_column)
    fit, scored = calibration_texts(data, CalibrationPlan(options.fit, options.scored, options.seed))
    profile, choices, head = profile_model(loaded), grid(BITS, GROUPINGS, "gptq"), loaded.head
    (options.folder / "errors").mkdir(parents=True, exist_ok=True)
    quantizer = MatrixQuantizer(loaded, profile, "gptq", fit)
    norms = []
    for number, matrix in enumerate(profile.matrices):
        path = options.folder / "errors" / f"{number}.npy"
        if not path.exists():
            parts = [[c for c in choices if c.bits == bits] for bits in BITS]
            np.save(path, np.concatenate([quantizer.errors(matrix, part).numpy().astype(np.float16) for part in parts]))
        norms.append((torch.from_numpy(np.load(path)).float() ** 2).sum((1, 2)).tolist())
    batches = tokenized(loaded, scored.texts, batch_size=16)
    carrying = carrying_samples(head, collect(head, loaded.model, batches))
    batches = batches if carrying is None else apart(batches, carrying)
    exact = exact_factors(head) is not None
    passes = [softened(head, carrying)] if exact else [FactorPlan(2.0), FactorPlan(1.0)]
    names = [m.module for m in profile.matrices]
    losses = np.empty((2, len(scored), len(names), len(choices)))
    for part in _parts(batches):
        rows = rows_per_sample(head.kind, part)  # every pass is of the mean over rows of its own texts
        for number, plan in enumerate(passes):
            factors = factor_pass(loaded.model, part, names, replace(plan, seed=options.seed + 1000 * number), head)
            for i, name in enumerate(names):
                samples = factors.pop(name)
                errors = torch.from_numpy(np.load(options.folder / "errors" / f"{i}.npy")).float()
                for kind, found in enumerate(both_losses(samples, errors), number):
                    losses[kind][[s.index for s in samples], i] = rows * found.numpy()
    weights = np.empty(len(scored))
    for sample in (s for batch in batches for s in single_samples([batch])):
        weights[sample.indices[0]] = rows_per_sample(head.kind, [sample])
    np.savez(options.folder / "pool.npz", losses=losses, rows=weights, norms=np.array(norms))
    about = {key: value for key, value in vars(options).items() if key not in ("run", "folder")}
    about |= {"profile": profile.model_dump(mode="json"), "choices": [c.name for c in choices], "name": loaded.name}
    (options.folder / "about.json").write_text(json.dumps(about))


def _parts(batches: list[Any]) -> Iterator[list[Any]]:
    part: list[Any] = []
    for batch in batches:
        if part and sum(b.mask.numel() for b in part) + batch.mask.numel() > TOKENS_AT_A_TIME:
            yield part
            part = []
        part.append(batch)
    yield part


@dataclass(frozen=True)
class Pool:
    """What `score` kept: losses [texts, matrices, choices] softened and at temperature 1, rows of each text, ‖ΔW‖²."""

    folder: Path
    about: dict[str, Any]
    softened: Table
    sharp: Table
    rows: Table
    norms: Table

    @staticmethod
    def read(folder: Path) -> "Pool":
        stored = np.load(folder / "pool.npz")
        about = json.loads((folder / "about.json").read_text())
        return Pool(folder, about, *stored["losses"], stored["rows"], stored["norms"])

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

    def judged(self, estimate: Callable[[Table], Table], groupings: str) -> tuple[float, float]:
        """Cross-fitted loss of a way to choose on a grid, and its standard error."""
        folds, held_out = self.table.item_folds(), []
        for k, fold in enumerate(folds):
            plan = self.chosen(estimate(np.delete(folds, k, 0)), groupings)
            held_out.append(np.inf if plan is None else loss_of(fold, np.array(plan)))
        return float(np.mean(held_out)), float(np.std(held_out, ddof=1) * (1 / FOLDS + 1 / (FOLDS - 1)) ** 0.5)

    def plans(self) -> Iterator[tuple[str, tuple[int, ...] | None, dict[str, float | str]]]:
        folds, raw = self.table.item_folds(), self.table.values()
        pooling = Pooling.of(self.table)
        pooled = pooling.estimate(folds, raw)
        for grid_name in ("", "rows:each", "rows"):
            yield f"unpooled, {grid_name or 'all'}", self.chosen(raw, grid_name), {}
        cross_fitted = {name: self.judged(pooling.estimate, name) for name in ("", "rows:each", "rows", "columns")}
        own = {"cross_fitted": cross_fitted[""][0], "std_error": cross_fitted[""][1]}
        yield "pooled, all", self.chosen(pooled), own
        yield "pooled, rows:each", self.chosen(pooled, "rows:each"), {}
        best = min(cross_fitted, key=lambda name: cross_fitted[name][0])
        yield "cross-fitted", self.chosen(pooled, best), {"grid": best or "all"}
        place = pooling.rows, pooling.columns
        smooth = raw.copy()
        smooth[place] = np.exp(pooling.basis @ (pooling.basis.T @ np.log(raw[place])))
        yield "smooth, all", self.chosen(smooth), {}
        yield UNIFORM, (self.table.choices.index(UNIFORM),) * len(raw), {}


def compare(options: argparse.Namespace) -> None:
    """Make the plans of every way to choose, and measure each."""
    pool = Pool.read(options.folder)
    scored = pool.sharp if options.temperature == 1.0 else pool.softened
    plans: dict[tuple[int, ...], list[dict[str, Any]]] = {}
    for draw in range(options.draws):
        order = np.random.default_rng(draw).permutation(len(pool.rows))
        texts, rest = order[: options.scored], order[options.scored :]
        table = pool.table(scored, texts)
        scale = float((pool.mean(pool.sharp, texts) / pool.mean(scored, texts)).mean())
        for bits in options.budgets:
            for way, plan, more in Drawn(pool, table, bits).plans():
                if plan is None:
                    continue
                row = {"draw": draw, "bits": bits, "way": way, "scale": scale, **more}
                row["sum_of_unpooled"] = loss_of(table.values(), np.array(plan))
                if len(rest):
                    row["rest_of_pool"] = loss_of(pool.mean(scored, rest), np.array(plan))
                plans.setdefault(plan, []).append(row)
    about = {key: pool.about[key] for key in ("name", "pool", "fit", "seed")}
    about |= {"scored": options.scored, "measured": options.measured, "temperature": options.temperature}
    about |= {"test": Path(options.test).name, "commit": code_commit(), "date": today()}
    about |= {"machine": platform.processor() or platform.machine(), "cpus": os.cpu_count()}
    measured: dict[tuple[int, ...], tuple[NDArray[Any], NDArray[Any]]] = {}
    for plan, texts_kl in measure(pool, options, list(plans)):
        measured[plan] = texts_kl
        found = ratio_interval(*texts_kl)
        for row in plans[plan]:
            own = about | row | {"kl": found.value, "low": found.low, "high": found.high}
            line = {key: float(f"{v:.5g}") if isinstance(v, float) else v for key, v in own.items()}
            with options.output.open("a") as file:
                file.write(json.dumps(line) + "\n")
        print(f"{found.value:.5f}", [(r["draw"], r["bits"], r["way"]) for r in plans[plan]], flush=True)
    np.savez(options.folder / f"measured-{options.temperature:g}.npz", **{repr(k): v[0] for k, v in measured.items()})


def measure(
    pool: Pool, options: argparse.Namespace, plans: list[tuple[int, ...]]
) -> Iterator[tuple[tuple[int, ...], tuple[NDArray[Any], NDArray[Any]]]]:
    """KL of each plan on each text of TEST, times rows, and the rows."""
    loaded = load_model(pool.about["model"])
    columns = {"text_columns": pool.about["text_column"], "label_column": pool.about["label_column"]}
    test = read_texts(options.test, **columns)
    batches = evaluation_batches(loaded, test.take(range(min(options.measured, len(test)))))
    head, model, modules = loaded.head, loaded.model, [m["module"] for m in pool.about["profile"]["matrices"]]
    truth = collect(head, model, batches).values
    floats = {module: weight_of(model, module).clone() for module in modules}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.removesuffix(".weight") not in floats:
                parameter.copy_(parameter.half().float())
        for plan in plans:
            for number, (module, column) in enumerate(zip(modules, plan, strict=True)):
                errors = np.load(pool.folder / "errors" / f"{number}.npy", mmap_mode="r")
                weight_of(model, module).copy_(floats[module] + torch.from_numpy(np.array(errors[column])).float())
            answers = collect(head, model, batches)
            kl = per_text(answers, KINDS[head.kind].loss.of_rows(truth, answers.values))
            yield plan, (np.asarray(kl.above), np.asarray(kl.below))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    first, second = verbs.add_parser("score"), verbs.add_parser("compare")
    first.set_defaults(run=score)
    first.add_argument("model")
    first.add_argument("pool")
    first.add_argument("folder", type=Path)
    first.add_argument("--fit", type=int, default=512)
    first.add_argument("--scored", type=int, default=512)
    first.add_argument("--seed", type=int, default=0)
    first.add_argument("--text-column", action="append", help="twice for pairs of sentences")
    first.add_argument("--label-column")
    second.set_defaults(run=compare)
    second.add_argument("folder", type=Path)
    second.add_argument("test")
    second.add_argument("-o", "--output", type=Path, required=True)
    second.add_argument("--scored", type=int, default=256)
    second.add_argument("--draws", type=int, default=2)
    second.add_argument("--measured", type=int, default=800)
    second.add_argument("--temperature", type=float, choices=(1.0, 2.0), default=2.0)
    second.add_argument("--budgets", type=float, nargs="+", default=BUDGETS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.process_time()
    options.run(options)
    print(f"{time.process_time() - started:.0f} s of processor time")


if __name__ == "__main__":
    main()
