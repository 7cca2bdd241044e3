"""Which quantizer keeps most at so many bits per weight? Plans measured on unseen text, all scales counted.

    python -m benchmarks.quantizers.quantizers MODEL CALIBRATION TEST OUT.jsonl [--seeds 0,1,2] [--methods gptq,guided]
        [--label-column tags] [--texts 1024] [--no-uniform] [--written guided]
    python -m benchmarks.quantizers.quantizers --table OUT.jsonl ...

Uniform plans give every matrix one choice; mixed ones are solved from `directional` scores of the same quantizer on the
other half of CALIBRATION, and with `--written` another quantizer also writes their codes. Tables are stored at 8 bits
and all else in fp16 in every plan. Rows that OUT.jsonl has are not measured again, so a run may be stopped (`--stop`
seconds) and repeated.
"""

import argparse
import copy
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.records import machine
from qbert_opt.data.texts import read_texts
from qbert_opt.evaluation.evaluate import evaluate, outputs
from qbert_opt.models.loading import LoadedModel, load_model
from qbert_opt.models.structure import profile_model
from qbert_opt.planning.planner import allocate
from qbert_opt.quantization.calibration import (
    CalibrationPlan,
    MatrixQuantizer,
    calibration_texts,
    method_grid,
    weight_of,
)
from qbert_opt.quantization.methods import rtn
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.scoring.sensitivity import measure_sensitivity
from qbert_opt.spec.choices import Layout, choice
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.scores import ScoreTable, read_scores, write_scores

AT_2_BITS = ("2bit/rows:heads", "2bit/rows:each", "2bit/columns:128")
UNIFORM = {
    "offset": (*AT_2_BITS, "2bit/columns:64", "3bit/rows:each", "4bit/rows:each"),
    "codebook": (*AT_2_BITS, "3bit/rows:each", "4bit/rows:each"),
}
BUDGETS = (2.05, 2.25, 2.5, 3.0, 4.0)
MIXED_BITS = (2, 3, 4)
MIXED_GROUPINGS = ("rows:heads", "rows:128", "rows:each", "columns:32", "columns:64", "columns:128")
METHODS = ("rtn", "mse", "kmeans", "gptq", "quantease", "guided")
FREE = ("rtn", "mse")  # know no calibration text: one seed says all


class Study:
    """One model, one draw of calibration text."""

    def __init__(self, options: argparse.Namespace, seed: int) -> None:
        self.loaded = load_model(options.model)
        columns = {"label_column": options.label_column}
        self.data, self.test = (read_texts(path, **columns) for path in (options.calibration, options.test))
        half = min(len(set(self.data.texts)), options.texts or len(self.data)) // 2
        self.plan = CalibrationPlan(half, half, seed)
        self.fit, self.scored = calibration_texts(self.data, self.plan)
        self.profile = profile_model(self.loaded)
        self.truth = outputs(self.loaded, self.test)
        self.right = evaluate(self.loaded, self.test, self.truth).accuracy.value
        self.rest = self._everything_else()

    def _everything_else(self) -> dict[str, torch.Tensor]:
        """Tables at 8 bits, one range per row; all other tensors in fp16."""
        stored = {n: p.detach().half().float() for n, p in self.loaded.model.named_parameters()}
        for table in self.profile.tables:
            [found] = rtn.quantize(weight_of(self.loaded.model, table.module), [Layout(8, "rows", table.rows, 1)])
            stored[f"{table.module}.weight"] = found.dequantize()
        return stored

    def measure(self, quantizer: MatrixQuantizer, names: dict[str, str]) -> dict[str, object]:
        """Measure the plan that gives each matrix the named choice."""
        stored, size = dict(self.rest), 0
        for matrix in self.profile.matrices:
            asked = choice(names[matrix.module])
            [found] = quantizer.quantize(matrix, [asked])
            stored[f"{matrix.module}.weight"] = found.dequantize()
            size += asked.bytes(matrix.rows, matrix.columns, heads=self.profile.heads)
        model = copy.deepcopy(self.loaded.model)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(stored[name])
        found = evaluate(
            LoadedModel(self.loaded.name, model, self.loaded.tokenizer, self.loaded.sha256), self.test, self.truth
        )
        accuracy, kl = found.accuracy, found.kl
        return {
            "bits": round(8 * size / self.profile.encoder_elements, 4),
            "accuracy": round(100 * accuracy.value, 2),
            "kl": [round(x, 5) for x in (kl.value, kl.low, kl.high)],
            "flipped": found.flipped,
            "lost": found.lost,
            "won": found.won,
            "reference": round(100 * self.right, 2),
        }

    def scores(self, method: str, path: Path) -> ScoreTable:
        """Directional scores of a method, from `path` where it was written before."""
        if path.exists():
            return read_scores(path)
        table = measure_sensitivity(
            self.loaded,
            self.data,
            method_grid(method, MIXED_BITS, MIXED_GROUPINGS),
            plan=self.plan,
            checkpoint=f"{path}.part",
        )
        write_scores(table, path)
        return table


def rows_of(options: argparse.Namespace, done: set[tuple[str, str, int]]):
    """Yield measured rows that are not there yet, seed by seed and method by method."""
    started = time.monotonic()
    for seed in map(int, options.seeds.split(",")):
        study = None
        for method in options.methods.split(","):
            [form] = {c.form for c in method_grid(method, (2,), ("rows:1",))}
            suffix = "" if form == "offset" else f"/{form}"
            uniform = [f"{c}/{method}{suffix}" for c in UNIFORM[form]]
            mixed = [f"mixed:{bits}/{method}" for bits in options.budgets] if method in options.mixed.split(",") else []
            mixed += [f"{plan} written by {options.written}" for plan in mixed if options.written not in (None, method)]
            plans = ([] if options.no_uniform else uniform) + mixed
            pending = [p for p in plans if (p, options.model_name, seed) not in done]
            if (method in FREE and seed) or not pending:
                continue
            study = study or Study(options, seed)
            quantizer = {
                m: MatrixQuantizer(study.loaded, study.profile, m, study.fit) for m in (method, options.written) if m
            }
            print(f"seed {seed} {method}: {len(pending)} plans", file=sys.stderr, flush=True)
            for plan in pending:
                if time.monotonic() - started > options.stop:
                    return
                begun, predicted = time.process_time(), None
                names, writer = {m.module: plan for m in study.profile.matrices}, method
                if plan in mixed:
                    bits = float(plan.removeprefix("mixed:").split("/")[0])
                    path = Path(f"{options.out}.{options.model_name}.{method}.{seed}.scores.json")
                    table = study.scores(method, path)
                    found = allocate(table, Limits(encoder_bytes=int(bits * study.profile.encoder_elements / 8)))
                    writer = options.written if " written by " in plan else method
                    names = {m.module: replace(m.choice, method=writer).name for m in found.matrices}
                    predicted = found.predicted_loss
                row = {"model": options.model_name, "seed": seed, "method": method, "plan": plan}
                row |= study.measure(quantizer[writer], names)
                yield row | {
                    "predicted": predicted, "cpu_s": round(time.process_time() - begun, 1), "commit": code_commit(),
                    "machine": f"{machine()}, {torch.get_num_threads()} threads",
                }  # fmt: skip


def table_of(paths: list[str]) -> str:
    """Markdown, one table per model: plans down, quantizers across, the seeds together."""
    rows = [json.loads(line) for path in paths for line in Path(path).read_text().splitlines()]
    lines = []
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == model]
        cells = {(kind_of(row), column_of(row)): [] for row in mine}
        for row in mine:
            cells[kind_of(row), column_of(row)].append(row)
        columns = sorted({column for _, column in cells}, key=lambda c: (METHODS.index(c.split(",")[0]), c))
        lines += [f"**{model}** (float32: {mine[0]['reference']} %)", "", f"| plan | {' | '.join(columns)} |"]
        lines.append("|---" * (len(columns) + 1) + "|")
        bits = {kind: min(r["bits"] for c in columns for r in cells.get((kind, c), [])) for kind, _ in cells}
        for kind in sorted(bits, key=lambda kind: (bits[kind], kind)):
            row = [cell(cells[kind, column]) if (kind, column) in cells else "-" for column in columns]
            name = f"mixed, {kind.removeprefix('mixed:')}" if kind.startswith("mixed") else f"{kind}, {bits[kind]:.2f}"
            lines.append(f"| {name} | {' | '.join(row)} |")
        lines.append("")
    return "\n".join(lines)


def kind_of(row: dict) -> str:
    """What is planned, without the quantizer."""
    return row["plan"].split(" written by ")[0].replace(f"/{row['method']}", "").removesuffix("/codebook")


def column_of(row: dict) -> str:
    """The quantizer that scored, and the one that wrote if it is another."""
    _, _, writer = row["plan"].partition(" written by ")
    return f"{row['method']}, written by {writer}" if writer else row["method"]


def cell(same: list[dict]) -> str:
    """Mean KL of the seeds (least to most), what was predicted, mean accuracy."""
    kl = [row["kl"][0] for row in same]
    spread = f" ({min(kl):.3f} to {max(kl):.3f})" if len(kl) > 1 else ""
    predicted = [row["predicted"] for row in same if row["predicted"] is not None]
    foretold = f", predicted {np.mean(predicted):.3f}" if predicted else ""
    return f"{np.mean(kl):.4f}{spread}{foretold}; {np.mean([row['accuracy'] for row in same]):.2f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", nargs="+")
    parser.add_argument("model", nargs="?")
    parser.add_argument("calibration", nargs="?")
    parser.add_argument("test", nargs="?")
    parser.add_argument("out", nargs="?")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--methods", default="guided,gptq,rtn,mse,kmeans,quantease")
    parser.add_argument("--mixed", default="guided,gptq,rtn", help="methods whose mixed plans are measured too")
    parser.add_argument("--budgets", type=float, nargs="+", default=BUDGETS, help="bits per weight of mixed plans")
    parser.add_argument("--label-column", help="of both texts; `tags` for a tagger")
    parser.add_argument("--texts", type=int, help="of CALIBRATION: half of them fit, half score; all by default")
    parser.add_argument("--no-uniform", action="store_true", help="mixed plans only")
    parser.add_argument("--written", help="quantizer that also writes the mixed plans of every other one")
    parser.add_argument("--stop", type=float, default=1e9, help="start no plan after so many seconds")
    options = parser.parse_args()
    if options.table:
        print(table_of(options.table))
        return
    options.model_name = Path(options.model).name
    out = Path(options.out)
    lines = out.read_text().splitlines() if out.exists() else []
    done = {(r["plan"], r["model"], r["seed"]) for r in map(json.loads, lines)}
    for row in rows_of(options, done):
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row["seed"], row["plan"], row["bits"], row["kl"], row["accuracy"], row["cpu_s"], flush=True)


if __name__ == "__main__":
    main()
