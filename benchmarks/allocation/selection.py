"""Does a wide grid of choices pay? Plans of several ways to choose from the same scores, measured on unseen text.

    python -m benchmarks.allocation.selection score MODEL POOL FOLDER --fit N --pool N [--text-column C]
        [--label-column C]
    python -m benchmarks.allocation.selection compare FOLDER TEST -o results.json --scored N --draws N --measured N

`score` quantizes every matrix under every choice (`gptq`, 2, 3 and 4 bits; 8 are left out) with N texts of POOL, and
keeps the second-order loss of each other text, matrix and choice: once, so that every way to choose sees the same.
`interactions` judges plans on the rest of the pool, with and without what the matrices do to each other (two classes).
`compare` draws texts from these as a scoring set, makes the plans of each way, and measures each plan's KL on TEST; the
rest of the pool judges it too, without running it. Tables and all other tensors are in fp16 and in no figure.

Ways: `unpooled` scores (the default) or partially `pooled` ones, on all choices, `rows:each` only, all rows;
`cross-fitted`, the grid whose plan has the least cross-fitted loss; `smooth`, without any residual; the uniform plan of
2 bits and `rows:each`, which no text chose. For tags both softmax temperatures are recorded (`--temperature`).
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.allocation.scored_pool import GRIDS, Drawn, Pool, pooled
from benchmarks.records import machine, rounded
from qbert_opt.curvature.columns import FactorPlan, exact_factors
from qbert_opt.curvature.factors import factor_pass
from qbert_opt.curvature.sharing import softened
from qbert_opt.data.texts import read_texts
from qbert_opt.evaluation.evaluate import evaluation_batches
from qbert_opt.evaluation.intervals import ratio_interval
from qbert_opt.models.batches import single_samples
from qbert_opt.models.heads import KINDS
from qbert_opt.models.heads.protocol import per_text
from qbert_opt.models.loading import load_model, tokenized
from qbert_opt.models.outputs import collect, rows_per_sample
from qbert_opt.models.structure import profile_model
from qbert_opt.planning.cross_fit import loss_of
from qbert_opt.quantization.calibration import CalibrationPlan, MatrixQuantizer, calibration_texts, weight_of
from qbert_opt.runtime.files import write_text
from qbert_opt.runtime.provenance import code_commit, today
from qbert_opt.scoring.metrics.directional import BUFFER_BYTES, _products, both_losses
from qbert_opt.spec.grids import grid

BITS = (2, 3, 4)
GROUPINGS = ("rows:1", "rows:heads", "rows:128", "rows:each", "columns:32", "columns:64", "columns:128")
BUDGETS = (2.25, 2.5, 3.0)
BASE = "unpooled, all"
TOKENS_AT_A_TIME = 6000


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
    exact = exact_factors(head) is not None
    passes = [FactorPlan(2.0), FactorPlan(1.0)]
    if exact:
        passes = [softened(head, collect(head, loaded.model, batches))]
        batches = list(passes[0].batched(head, batches))
    names = [m.module for m in profile.matrices]
    losses = np.empty((2, len(scored), len(names), len(choices)))
    signed = np.empty(losses.shape[1:] if exact_factors(head) == 1 else (0, 0, 0))
    for part in _parts(batches):
        rows = rows_per_sample(head.kind, part)  # every pass is of the mean over rows of its own texts
        for number, plan in enumerate(passes):
            factors = factor_pass(loaded.model, part, names, replace(plan, seed=options.seed + 1000 * number), head)
            for i, name in enumerate(names):
                samples = factors.pop(name)
                errors = torch.from_numpy(np.load(options.folder / "errors" / f"{i}.npy")).float()
                for kind, found in enumerate(both_losses(samples, errors), number):
                    losses[kind][[s.index for s in samples], i] = rows * found.numpy()
                if signed.size:
                    products = _products([s.at_one() for s in samples], errors, BUFFER_BYTES)
                    signed[[s.index for s in samples], i] = products.numpy()
    weights = np.empty(len(scored))
    for sample in (s for batch in batches for s in single_samples([batch])):
        weights[sample.indices[0]] = rows_per_sample(head.kind, [sample])
    np.savez(options.folder / "pool.npz", losses=losses, signed=signed, rows=weights, norms=np.array(norms))
    about = {key: value for key, value in vars(options).items() if key not in ("run", "folder")}
    about |= {"profile": profile.model_dump(mode="json"), "choices": [c.name for c in choices]}
    about |= {"name": Path(loaded.name).name}
    (options.folder / "about.json").write_text(json.dumps(about))


def _parts(batches: list[Any]) -> Iterator[list[Any]]:
    part: list[Any] = []
    for batch in batches:
        if part and sum(b.mask.numel() for b in part) + batch.mask.numel() > TOKENS_AT_A_TIME:
            yield part
            part = []
        part.append(batch)
    yield part


def interactions(options: argparse.Namespace) -> None:
    """Judge plans by texts of the pool that did not choose them, each matrix alone and all together; nothing is run."""
    pool = Pool.read(options.folder)
    judged: dict[tuple[float, str], list[tuple[float, float]]] = {}
    for draw in range(options.draws):
        order = np.random.default_rng(500 + draw).permutation(len(pool.rows))
        texts, rest = order[: options.scored], order[options.scored :]
        table = pool.table(pool.softened, texts)
        folds, raw = table.item_folds(), table.values()
        values = {f"unpooled, {name or 'all'}": (raw, name) for name in GRIDS}
        values["pooled, all"] = pooled(folds, pool.norms), ""
        values["pooled, rows"] = pooled(folds, pool.norms), "rows"
        values["smooth, all"] = pooled(folds, pool.norms, smooth=True), ""
        for bits in options.budgets:
            for way, (scores, name) in values.items():
                plan = np.array(Drawn(pool, table, bits).chosen(scores, name))
                together = pool.signed[rest][:, np.arange(len(plan)), plan].sum(1)
                alone = loss_of(pool.mean(pool.sharp, rest), plan)
                judged.setdefault((bits, way), []).append((alone, float((together**2).mean() / 2)))
    rows = []
    for (bits, way), losses in judged.items():
        alone, together = np.array(losses).T
        to_base = np.log(np.array(losses) / np.array(judged[bits, BASE]))
        mean, error = np.exp(to_base.mean(0)), to_base.std(0, ddof=1) / len(losses) ** 0.5
        spread = np.log(together / alone)
        row = {"name": pool.about["name"], "scored": options.scored, "draws": options.draws, "bits": bits, "way": way}
        row |= {"alone_to_base": [mean[0], error[0]], "together_to_base": [mean[1], error[1]]}
        rows.append(row | {"together_over_alone": [float(np.exp(spread.mean())), float(spread.std(ddof=1))]})
    print(json.dumps([{key: rounded(v) for key, v in row.items()} for row in rows], indent=1).replace("\n   ", ""))


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
                more |= {name: scale * figure for name, figure in more.items() if name in ("predicted", "std_error")}
                row = {"draw": draw, "bits": bits, "way": way, **more}
                row["sum_of_unpooled"] = loss_of(table.values(), np.array(plan))
                if len(rest):
                    row["rest_of_pool"] = loss_of(pool.mean(scored, rest), np.array(plan))
                plans.setdefault(plan, []).append(row)
    about = {key: pool.about[key] for key in ("name", "pool", "fit", "seed")}
    about |= {"scored": options.scored, "measured": options.measured, "temperature": options.temperature}
    about |= {"test": Path(options.test).name, "commit": code_commit(), "date": today()}
    measured = dict(measure(pool, options, list(plans)))
    bases = {(r["draw"], r["bits"]): measured[p][0] for p, rows in plans.items() for r in rows if r["way"] == BASE}
    rows = json.loads(options.output.read_text())["rows"] if options.output.exists() else []
    for plan, kl in measured.items():
        found = ratio_interval(*kl)
        for row in plans[plan]:
            to_base = ratio_interval(kl[0], bases[row["draw"], row["bits"]])  # of the same texts
            figures = {
                "kl": [found.value, found.low, found.high],
                "to_base": [to_base.value, to_base.low, to_base.high],
            }
            rows.append({key: rounded(value) for key, value in (about | row | figures).items()})
    document = {"machine": machine(), "cpus": os.cpu_count(), "rows": rows}
    write_text(options.output, json.dumps(document, indent=1).replace("\n   ", "") + "\n")


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
    third = verbs.add_parser("interactions")
    third.set_defaults(run=interactions)
    third.add_argument("folder", type=Path)
    third.add_argument("--scored", type=int, default=256)
    third.add_argument("--draws", type=int, default=8)
    third.add_argument("--budgets", type=float, nargs="+", default=BUDGETS)
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
