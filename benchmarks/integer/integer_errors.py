"""How far are integer exp, softmax, GELU, tanh and the square root from the real functions, by way?

    python -m benchmarks.integer.integer_errors OUT.json

Every one of 65,536 inputs is tried, in the ranges of `integer.errors.usual_error`: scores up to 16, inputs of GELU and
tanh from -8 to 8, results of 16 bits. Softmax: mean KL(real || integer) of 10,000 rows of 64 normal scores of standard
deviation 3. Shares have 15 bits; one that rounds to 0 counts as half a unit, and rows are made to add up to 1.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from qbert_opt.integer.builder import Builder, Grid
from qbert_opt.integer.errors import activation_error, usual_error
from qbert_opt.integer.layers import add_softmax, probability_top
from qbert_opt.integer.nonlinearity import USUAL_INPUT, USUAL_SCORE, nonlinearity
from qbert_opt.integer.operations import MASK, Value
from qbert_opt.integer.program import Output
from qbert_opt.integer.reference import Reference
from qbert_opt.runtime.plugins import available
from qbert_opt.runtime.provenance import code_commit

ROWS, WIDTH, DEVIATION = 10_000, 64, 3.0


def softmax_divergence(way):
    """Mean KL in nats of a way's softmax, and its largest absolute error."""
    grid = nonlinearity(way).score_grid(USUAL_SCORE)
    rows = Value("scores", ("batch", 1, "tokens"), grid.low, grid.high, grid.scale)
    builder = Builder((rows, Value(MASK, ("batch", "tokens"), 0, 1)), WIDTH)
    made = add_softmax(builder, nonlinearity(way), "f", rows, probability_top(WIDTH))
    reference = Reference(builder.finish((Output("y", made.name),)))
    real = np.random.default_rng(0).normal(0, DEVIATION, (ROWS, 1, WIDTH))
    scores = np.clip(np.round(real / grid.scale), grid.low, grid.high).astype(np.int64)
    shares = reference.run({"scores": scores, MASK: np.ones((ROWS, WIDTH), np.int64)})[made.name] * made.scale
    exact = np.exp(real - real.max(-1, keepdims=True))
    exact /= exact.sum(-1, keepdims=True)
    normed = np.maximum(shares, made.scale / 2)
    normed /= normed.sum(-1, keepdims=True)
    return {
        "function": "softmax", "way": way, "inputs": real.size, "largest": float(np.abs(shares - exact).max()),
        "mean": float(np.abs(shares - exact).mean()),
        "mean_kl": float((exact * np.log(exact / normed)).sum(-1).mean()),
    }  # fmt: skip


def main():
    """Measure every function by every way and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    rows = []
    for way in available("nonlinearities"):
        rows += [asdict(usual_error(function, way)) for function in ("softmax", "activation", "norm")]
        rows.append(asdict(activation_error(way, "tanh", USUAL_INPUT, Grid.spanning(-1.0, 1.0, 16))))
        rows.append(softmax_divergence(way))
    table = {"command": "python -m benchmarks.integer.integer_errors OUT.json", "commit": code_commit(), "errors": rows}
    options.out.write_text(json.dumps(table, indent=1) + "\n")
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
