"""Does drawing uncertain texts more often give surer losses and better plans, at the same number of texts scored?

    python -m benchmarks.allocation.drawn_texts FOLDER OUT.jsonl [--scored 64 128] [--draws 16] [--budgets 2.25 2.5 3.0]

FOLDER is what `selection.py score` left: the second-order loss of every text, matrix and choice; nothing is run here
but one forward pass, for the traces of the output Hessian. In each draw two thirds of the texts, taken at random, are
the pool, and the others have no part in the plan. From the pool as many texts are taken evenly, and drawn as
`--scoring-pool` draws them. Of each way: the plan of least loss under a budget, and the uniform plan of 2 bits, which
no text chose; the error of their losses at temperature 1, stated and real (against the whole pool, root mean square
over draws; the chosen plan's contains the winner's curse); and the chosen plan's loss on the texts that had no part.
Ratios are geometric means over draws, drawn / even, ± their standard error. A text costs as much in either way.
"""

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.allocation.scored_pool import UNIFORM, Pool, Table
from benchmarks.allocation.scored_pool import Drawn as Scored
from benchmarks.allocation.selection import BUDGETS
from benchmarks.records import machine, rounded
from qbert_opt.curvature.columns import exact_factors
from qbert_opt.curvature.sharing import hessian_traces
from qbert_opt.data.texts import read_texts
from qbert_opt.models.loading import load_model, tokenized
from qbert_opt.models.outputs import collect
from qbert_opt.planning.cross_fit import loss_of
from qbert_opt.quantization.calibration import CalibrationPlan, calibration_texts
from qbert_opt.runtime.provenance import code_commit, today
from qbert_opt.scoring.pool import Drawn, draw
from qbert_opt.scoring.task import Estimate


def traces_of(pool: Pool) -> tuple[Table, bool]:
    """The trace of each text's output Hessian, and whether its scores are softened (few outputs)."""
    about = pool.about
    loaded = load_model(about["model"])
    data = read_texts(about["pool"], text_columns=about["text_column"], label_column=about["label_column"])
    _, texts = calibration_texts(data, CalibrationPlan(about["fit"], about["scored"], about["seed"]))
    answers = collect(loaded.head, loaded.model, tokenized(loaded, texts.texts, batch_size=16))
    return hessian_traces(answers).numpy(), exact_factors(loaded.head) is not None


def weighted(pool: Pool, inside: Table, chosen: Drawn) -> tuple[Pool, Table]:
    """The pool with the losses of drawn texts weighted, so that their mean is of all `inside`; and their places."""
    places = inside[list(chosen.places)]
    weight, rows = np.ones(len(pool.rows)), pool.rows.copy()
    weight[places] = 1 / np.array(chosen.probabilities)
    rows[places] = pool.rows[inside].sum() / len(places)
    by_text = weight[:, None, None]
    return replace(pool, softened=pool.softened * by_text, sharp=pool.sharp * by_text, rows=rows), places


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--scored", type=int, nargs="+", default=(64, 128))
    parser.add_argument("--draws", type=int, default=16)
    parser.add_argument("--budgets", type=float, nargs="+", default=BUDGETS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.process_time()
    pool = Pool.read(options.folder)
    traces, is_softened = traces_of(pool)
    found: dict[tuple[int, float, str], list[tuple[float, ...]]] = {}
    for number in range(options.draws):
        order = np.random.default_rng(number).permutation(len(pool.rows))
        inside, rest = order[: 2 * len(order) // 3], order[2 * len(order) // 3 :]
        for scored in options.scored:
            even = Drawn(tuple(range(scored)), (scored / len(inside),) * scored, len(inside))
            ways = {"even": even, "drawn": Drawn(*map(tuple, draw(traces[inside], scored, number)), len(inside))}
            for way, chosen in ways.items():
                own, places = weighted(pool, inside, chosen)
                table = own.table(own.softened if is_softened else own.sharp, places)
                for bits in options.budgets:
                    plan = np.array(Scored(own, table, bits).chosen(table.values()))
                    figures = [loss_of(pool.mean(pool.sharp, rest), plan)]
                    for one in (plan, np.full(len(plan), table.choices.index(UNIFORM))):
                        losses = own.sharp[places][:, np.arange(len(one)), one].sum(1)
                        estimate = Estimate.over(torch.from_numpy(losses)[:, None], drawn=chosen)
                        real = loss_of(own.mean(own.sharp, places), one) / loss_of(pool.mean(pool.sharp, inside), one)
                        figures += [float(estimate.std_error[0] / estimate.value[0]), real - 1]
                    found.setdefault((scored, bits, way), []).append((*figures, estimate.effective_samples))
    about = {"commit": code_commit(), "date": today(), "machine": machine()}
    about |= {"cpus": os.cpu_count(), "name": pool.about["name"], "pool": 2 * len(pool.rows) // 3}
    about |= {"draws": options.draws, "unseen": len(pool.rows) - 2 * len(pool.rows) // 3}
    with options.output.open("a") as file:
        for (scored, bits, way), rows in found.items():
            unseen, *errors, effective = np.array(rows).T
            stated, real, stated_fixed, real_fixed = (float(np.sqrt((e**2).mean())) for e in errors)
            row = about | {"scored": scored, "bits": bits, "way": way}
            row |= {
                "uniform": {"stated_error": stated_fixed, "real_error": real_fixed, "bias": float(errors[3].mean())}
            }
            row |= {"chosen": {"stated_error": stated, "real_error": real, "bias": float(errors[1].mean())}}
            row["effective_samples"] = float(np.median(effective))
            if way == "drawn":
                base = np.array(found[scored, bits, "even"]).T[0]
                gain = np.log(unseen / base)
                row["unseen_to_even"] = [float(np.exp(gain.mean())), float(gain.std(ddof=1) / len(gain) ** 0.5)]
            print(json.dumps(rounded(row)), file=file)
    print(f"{time.process_time() - started:.0f} s of processor time")


if __name__ == "__main__":
    main()
