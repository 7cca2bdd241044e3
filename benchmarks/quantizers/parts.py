"""What do the parts cost? Quality against the bits of embeddings, attention and feed-forward apart, and against groups.

    qbert-opt sensitivity --model MODEL --data CALIBRATION --method gptq --activation-bits 8,16 -o gptq.json
    qbert-opt sensitivity --model MODEL --data CALIBRATION --method rtn --activation-bits none -o rtn.json
    python -m benchmarks.quantizers.parts MODEL CALIBRATION TEST gptq.json rtn.json OUT.jsonl
    python -m benchmarks.quantizers.parts --table OUT.jsonl ...

*Parts*: only the embedding tables, only the attention matrices or only the feed-forward matrices are rounded, the rest
is float32. *Groups*: all encoder matrices, every one with the same bits and ranges, tables float32; Q-BERT's quantizer
(`rtn`) and error-compensated rounding (`gptq`). *On top*: the plan at 2.5 bits per weight as it is written (tables at 8
bits, the rest fp16), then with tables at 4 bits, with inputs of matrices rounded to 8, and with both. Every row is
measured on TEST, text that neither trained, fitted nor scored. Rows that OUT.jsonl has are not measured again.
"""

import argparse
import copy
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from qbert_opt.data.texts import read_texts
from qbert_opt.evaluation.evaluate import Evaluation, evaluate, outputs
from qbert_opt.models.loading import LoadedModel, load_model
from qbert_opt.planning.assembly import with_activations
from qbert_opt.planning.constraints import PlanConstraints
from qbert_opt.planning.planner import allocate
from qbert_opt.planning.recipes import uniform_allocation
from qbert_opt.quantization.activation_quant import with_rounded_inputs
from qbert_opt.quantization.calibration import MatrixQuantizer, quantize_table
from qbert_opt.quantization.methods import QuantizedMatrix
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.spec.activations import activation_grid
from qbert_opt.spec.choices import Choice
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.scores import ScoreTable, read_scores
from qbert_opt.spec.tables import TABLE_METHOD
from qbert_opt.workflows.quantize import plan_quantizer
from qbert_opt.workflows.verify import apply_plan

PARTS = {
    "attention": ("query", "key", "value", "attention_output"),
    "feed-forward": ("intermediate", "output"),
}
BITS = (8, 4, 3, 2)
PART_GROUPING = "columns:64"
GROUPINGS = ("rows:1", "rows:heads", "rows:128", "rows:each")
BUDGET = 2.5  # bits per weight


class Bench:
    """One model: what is measured once is kept."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.loaded = load_model(options.model)
        self.test = read_texts(options.test)
        self.data = read_texts(options.calibration)
        self.scores = {table.method: table for table in map(read_scores, (options.gptq, options.rtn))}
        self.truth = outputs(self.loaded, self.test)
        self.out = Path(options.out)
        self.done = {json.loads(line)["row"] for line in self.lines()}

    def lines(self) -> list[str]:
        return self.out.read_text().splitlines() if self.out.exists() else []

    def row(
        self, name: str, predicted: float | None, size: float, make: Callable[[], LoadedModel], **more: object
    ) -> None:
        if name in self.done:
            return
        found: Evaluation = evaluate(make(), self.test, self.truth)
        record = {
            "model": Path(self.loaded.name).name,
            "row": name,
            **more,
            "bytes": round(size),
            "predicted": predicted,
            "kl": [found.kl.value, found.kl.low, found.kl.high] if found.kl else None,
            "accuracy": found.accuracy.value if found.accuracy else None,
            "flipped": [found.flipped, found.lost, found.won],
            "commit": code_commit(),
        }
        with self.out.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(name, f"predicted {predicted}", f"measured {found.kl}", f"accuracy {found.accuracy}", file=sys.stderr)

    def with_weights(self, weights: Mapping[str, QuantizedMatrix]) -> LoadedModel:
        model = copy.deepcopy(self.loaded.model)
        with torch.no_grad():
            for module, quantized in weights.items():
                model.get_parameter(f"{module}.weight").copy_(quantized.dequantize())
        return replace(self.loaded, model=model)

    def quantizer(self, method: str) -> MatrixQuantizer:
        scores = self.scores[method]
        plan = uniform_allocation(scores, Choice(8, "rows:each", method))
        return plan_quantizer(self.loaded, plan, self.data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "calibration", "test", "gptq", "rtn", "out"):
        parser.add_argument(name)
    bench = Bench(parser.parse_args())
    bench.row("reference", 0.0, bench.scores["gptq"].profile.float_bytes, lambda: bench.loaded)
    tables(bench)
    inputs(bench)
    for method in ("rtn", "gptq"):
        matrices(bench, method)
    on_top(bench)


def tables(bench: Bench) -> None:
    """Only the embedding tables are rounded."""
    found = bench.scores["gptq"].tables
    if found is None:
        raise SystemExit("the scores have no tables")
    for bits in BITS:
        choice = Choice(bits, "rows:each", TABLE_METHOD)
        j = found.choices.index(choice.name)
        weights = {m: quantize_table(bench.loaded.model, m, [choice])[0] for m in found.modules}
        size = sum(choice.bytes(len(w.dequantize()), w.dequantize().shape[1], heads=1) for w in weights.values())
        predicted = sum(row[j] or 0.0 for row in found.value)
        bench.row(
            f"embedding {bits}", predicted, size, lambda weights=weights: bench.with_weights(weights),
            part="embedding", bits=bits, grouping="rows:each", method=TABLE_METHOD,
        )  # fmt: skip


def inputs(bench: Bench) -> None:
    """Only the inputs of matrices are rounded."""
    found = bench.scores["gptq"].activations
    if found is None:
        raise SystemExit("the scores have no inputs: give --activation-bits")
    for scheme in ("token", "tensor"):
        for bits in (16, 8):
            wanted = [c for c in activation_grid((bits,)) if c.scheme == scheme]
            plain = uniform_allocation(bench.scores["gptq"], Choice(8, "rows:each", "gptq"))
            planned = allocate_inputs(bench, wanted, plain.predicted_loss)

            def make(planned=planned):  # type: ignore[no-untyped-def]
                return replace(bench.loaded, model=with_rounded_inputs(copy.deepcopy(bench.loaded.model), planned))

            predicted = sum(item.predicted_loss for item in planned)
            bench.row(f"inputs {bits} {scheme}", predicted, 0, make, part="inputs", bits=bits, grouping=scheme)


def allocate_inputs(bench: Bench, wanted, loss):  # type: ignore[no-untyped-def]
    from qbert_opt.spec.activations import planned_activations

    return planned_activations(bench.scores["gptq"], wanted, loss)


def matrices(bench: Bench, method: str) -> None:
    """Parts of the encoder apart (`gptq`), then all of it by number of ranges."""
    scores = bench.scores[method]
    profile, value = scores.profile, scores.values()
    studies = [("encoder", bits, grouping) for bits in BITS[1:] for grouping in GROUPINGS]
    if method == "gptq":
        studies += [(part, bits, PART_GROUPING) for part in (*PARTS, "encoder") for bits in BITS]
    if all(f"{part} {bits} {grouping} {method}" in bench.done for part, bits, grouping in studies):
        return
    choices = tuple(dict.fromkeys(Choice(bits, grouping, method) for _, bits, grouping in studies))
    quantizer = bench.quantizer(method)
    rounded = {m.module: dict(zip(choices, quantizer.quantize(m, choices), strict=True)) for m in profile.matrices}
    for part, bits, grouping in studies:
        choice = Choice(bits, grouping, method)
        kinds = PARTS.get(part)
        chosen = [(i, m) for i, m in enumerate(profile.matrices) if kinds is None or m.kind in kinds]
        weights = {m.module: rounded[m.module][choice] for _, m in chosen}
        size = sum(choice.bytes(m.rows, m.columns, heads=profile.heads) for _, m in chosen)
        predicted = float(sum(value[i, scores.choices.index(choice.name)] for i, _ in chosen))
        bench.row(
            f"{part} {bits} {grouping} {method}", predicted, size, lambda weights=weights: bench.with_weights(weights),
            part=part, bits=bits, grouping=grouping, method=method,
        )  # fmt: skip


def on_top(bench: Bench) -> None:
    """The mixed plan, then with tables at 4 bits, inputs at 8, and both."""
    scores: ScoreTable = bench.scores["gptq"]
    limits = Limits(encoder_bytes=int(BUDGET * scores.profile.encoder_elements / 8))
    quantizer = None
    for tables_at, scheme in ((8, None), (4, None), (8, "token"), (8, "tensor"), (4, "token"), (4, "tensor")):
        name = f"plan {BUDGET} E{tables_at} {'A8 ' + scheme if scheme else 'A32'}"
        if name in bench.done:
            continue
        plan = allocate(scores, limits, constraints=PlanConstraints(table_bits=(tables_at,)))
        if scheme:
            wanted = [c for c in activation_grid((8,)) if c.scheme == scheme]
            plan = with_activations(plan, allocate_inputs(bench, wanted, plan.predicted_loss))
        quantizer = quantizer or plan_quantizer(bench.loaded, plan, bench.data)

        def make(plan=plan, quantizer=quantizer):  # type: ignore[no-untyped-def]
            return apply_plan(bench.loaded, plan, quantizer)

        bench.row(name, plan.predicted_loss, plan.total_bytes, make, part="plan", bits=BUDGET, tables=tables_at)


def tables_of(paths: list[str]) -> None:
    """Print the rows of each model as three Markdown tables."""
    rows = [json.loads(line) for path in paths for line in Path(path).read_text().splitlines()]
    for model in dict.fromkeys(row["model"] for row in rows):
        found = {row["row"]: row for row in rows if row["model"] == model}
        reference = 100 * found["reference"]["accuracy"]
        print(f"**{model}** (float32: {reference:.2f} %)\n")

        def cell(name: str, found=found, reference=reference) -> str:  # type: ignore[no-untyped-def]
            row = found[name]
            points = 100 * row["accuracy"] - reference
            return f"{row['kl'][0]:.2g} ({row['predicted']:.2g}), {points:+.1f}"

        print("| only this part rounded | 8 bits | 4 bits | 3 bits | 2 bits |\n|---|---|---|---|---|")
        print("| embedding tables | " + " | ".join(cell(f"embedding {bits}") for bits in BITS) + " |")
        for part in (*PARTS, "encoder"):
            cells = " | ".join(cell(f"{part} {bits} {PART_GROUPING} gptq") for bits in BITS)
            print(f"| {'attention and feed-forward' if part == 'encoder' else part} | {cells} |")
        print("\n| ranges of each matrix | 4 bits | 3 bits | 2 bits |\n|---|---|---|---|")
        for method in ("rtn", "gptq"):
            for grouping in GROUPINGS:
                cells = " | ".join(cell(f"encoder {bits} {grouping} {method}") for bits in BITS[1:])
                print(f"| {method}, {grouping.removeprefix('rows:')} | {cells} |")
        print("\n| rounded | MB | predicted | KL [95 %] | accuracy | flipped |\n|---|---|---|---|---|---|")
        for name, row in found.items():
            if row.get("part") in ("inputs", "plan"):
                kl = "{:.2g} [{:.2g}, {:.2g}]".format(*row["kl"])
                accuracy = f"{100 * row['accuracy']:.2f} ({100 * row['accuracy'] - reference:+.2f})"
                flips = "{} ({} lost, {} won)".format(*row["flipped"])
                size = f"{row['bytes'] / 1e6:.2f}" if row["bytes"] else "-"
                print(f"| {name} | {size} | {row['predicted']:.2g} | {kl} | {accuracy} | {flips} |")
        print()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--table"]:
        tables_of(sys.argv[2:])
    else:
        main()
