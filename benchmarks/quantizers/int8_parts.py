"""What 8 bits cost part by part, predicted and measured: inputs per token, matrices, and each embedding table.

    python -m benchmarks.quantizers.int8_parts MODEL SCORES TEST OUT.json [--texts 200]

MODEL is a classifier, SCORES are of it with tables and 8-bit inputs per token (see `runtimes.py`), TEST is text that
took no part. In PyTorch; matrices and tables symmetric, 8 bits per row, tables as the plan's quantizer rounds them,
matrices to the nearest code. KL to the float model with its standard error.
"""

import argparse
import copy
import json
from dataclasses import replace
from pathlib import Path

from benchmarks.records import machine
from qbert_opt.data.texts import read_texts
from qbert_opt.evaluation.evaluate import outputs
from qbert_opt.models.loading import load_model
from qbert_opt.quantization.activation_quant import with_rounded_inputs
from qbert_opt.quantization.calibration import quantize_rows
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.spec.activations import ActivationChoice, planned_activations
from qbert_opt.spec.choices import choice
from qbert_opt.spec.scores import read_scores

MATRIX, SCORED_AS = "8bit/rows:each/rtn/symmetric", "8bit/rows:each/gptq/symmetric"
TABLE = "8bit/rows:each/mse/symmetric"


def rounded(model, modules, name):
    """Store the weights of some modules by a choice."""
    for module in modules:
        weight = model.get_submodule(module).weight
        [stored] = quantize_rows(weight.data, [choice(name)])
        weight.data = stored.dequantize()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "scores", "test", "out"):
        parser.add_argument(name)
    parser.add_argument("--texts", type=int, default=200)
    given = parser.parse_args()
    loaded, scores, test = load_model(given.model), read_scores(given.scores), read_texts(given.test)
    test = test.take(range(given.texts))
    truth = outputs(loaded, test).double().log_softmax(1)
    matrices, tables = [m.module for m in scores.profile.matrices], list(scores.tables.modules)
    inputs = planned_activations(scores, [ActivationChoice(8)], 1.0)
    column = scores.choices.index(SCORED_AS)
    of_table = {
        module: row[scores.tables.choices.index(TABLE)] for module, row in zip(tables, scores.tables.value, strict=True)
    }
    predicted = {"inputs": sum(item.predicted_loss for item in inputs)}
    predicted |= {"matrices": sum(row[column] for row in scores.value)} | of_table
    predicted["all"] = sum(predicted.values())
    rows = []
    for part, loss in predicted.items():
        model = copy.deepcopy(loaded.model)
        if part in ("matrices", "all"):
            rounded(model, matrices, MATRIX)
        rounded(model, [table for table in tables if part in (table, "all")], TABLE)
        if part in ("inputs", "all"):
            with_rounded_inputs(model, inputs)
        found = outputs(replace(loaded, model=model), test).double().log_softmax(1)
        kl = (truth.exp() * (truth - found)).sum(1)
        error = float(kl.std() / len(kl) ** 0.5)
        rows.append({"part": part, "predicted": loss, "kl": float(kl.mean()), "kl_std_error": error})
        print(json.dumps(rows[-1]), flush=True)
    result = {
        "command": "python -m benchmarks.quantizers.int8_parts MODEL SCORES TEST OUT.json",
        "model": Path(given.model).name,
        "test_texts": len(test), "commit": code_commit(), "machine": machine(),
        "rows": rows,
    }  # fmt: skip
    Path(given.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
