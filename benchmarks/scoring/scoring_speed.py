"""What do all directional scores cost, counted in training steps, and what does power iteration cost instead?

    python -m benchmarks.scoring.scoring_speed MODEL [--tokens 64 16] [--choices 28] [--power-iteration snips/dev]
    python -m benchmarks.scoring.scoring_speed TAGGER --texts slots.tsv --label-column tags [--tokens 64 0]

On the same random texts, in processor seconds of this process: one forward and backward pass over all parameters; the
factor pass; the scores of every matrix under the 28 choices of the default grid; rounding the matrices apart. Rounds
are interleaved and each ratio is paired within its round. With `--texts FILE` on real texts, joined until they have
`--tokens` tokens (0: each by itself): how often a tagger's texts are back-propagated hangs on what they say. With
`--power-iteration TEXTS`: PyHessian's settings (tolerance 1e-3, at most 100 products) on three matrices: products
counted on 32 labelled texts, beside Lanczos at the accuracy that power iteration reached; the time of a product
measured on the samples that the scores are of.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch

from qbert_opt.curvature.columns import exact_factors
from qbert_opt.curvature.factors import factor_pass
from qbert_opt.curvature.hessian import HessianOperator, top_eigenvalue
from qbert_opt.curvature.losses import LabelledLoss
from qbert_opt.curvature.sharing import softened
from qbert_opt.data.texts import read_texts, split_disjoint
from qbert_opt.models.batches import TokenBatch, mean_tokens, tokenize
from qbert_opt.models.loading import load_model
from qbert_opt.models.outputs import answers, collect
from qbert_opt.models.structure import profile_model
from qbert_opt.models.targets import Targets, read_targets
from qbert_opt.quantization.calibration import weight_of
from qbert_opt.quantization.methods import rtn
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.scoring.metrics.directional import both_losses
from qbert_opt.spec.grids import default_grid

BATCH = 16


def texts(loaded, samples, tokens):
    """Random token ids: what a pass costs does not depend on what they say."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, loaded.model.config.vocab_size, (samples, tokens), generator=generator)
    return [
        TokenBatch(
            {"input_ids": ids[i : i + BATCH], "attention_mask": torch.ones_like(ids[i : i + BATCH])},
            tuple(range(i, min(i + BATCH, samples))),
        )
        for i in range(0, samples, BATCH)
    ]


def real_texts(loaded, options, tokens):
    """Texts of a file, consecutive ones joined until they have so many tokens; they end there."""
    words = iter(read_texts(options.texts, label_column=options.label_column).texts)
    joined = []
    for _ in range(options.samples):
        text = next(words)[0]
        while len(loaded.tokenizer(text)["input_ids"]) < tokens:
            text += " " + next(words)[0]
        joined.append((text,))
    longest = {"max_tokens": tokens} if tokens else {}
    return tokenize(loaded.tokenizer, joined, batch_size=BATCH, kind=loaded.head.kind, **longest)


def seconds(work):
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


def training_step(loaded, batches):
    for batch in batches:
        outputs = answers(loaded.head, loaded.model, batch).values
        torch.nn.functional.cross_entropy(outputs, outputs.detach().argmax(-1)).backward()
    loaded.model.zero_grad(set_to_none=True)


def rounding_errors(loaded, profile, matrix, count):
    weight = weight_of(loaded.model, matrix.module)
    layouts = [c.layout(matrix.rows, matrix.columns, heads=profile.heads) for c in default_grid("rtn")]
    layouts = (layouts * 2)[:count]
    return torch.stack([found.dequantize() - weight for found in rtn.quantize(weight, layouts)])


def scores(loaded, profile, batches, errors):
    """Factor pass and all products; `errors` are of one matrix of each shape: values do not change the cost.

    Returns the time at which the pass ended, and how often a sample was back-propagated in the mean.
    """
    names = [m.module for m in profile.matrices]
    head = loaded.head
    plan = softened(head)
    if exact_factors(head) != 1:  # how often a sample is back-propagated is known from its answers
        plan = softened(head, collect(head, loaded.model, batches))
        batches = plan.batched(head, batches)
    found = factor_pass(loaded.model, batches, names, plan, head)
    passed = time.process_time()
    for matrix in profile.matrices:
        both_losses(found.pop(matrix.module), errors[matrix.rows, matrix.columns])
    return passed, plan.mean_count(head, range(sum(len(batch.indices) for batch in batches)))


def summary(values):
    return {"median": round(float(np.median(values)), 3), "least": round(min(values), 3), "most": round(max(values), 3)}


def power_iteration(operator, seed=0, tolerance=1e-3, most=100):
    """PyHessian 0.1: v ~ N(0, 1), normalized; stop when the eigenvalue changes by less than a thousandth."""
    vector = np.random.default_rng(seed).standard_normal(operator.shape[0])
    value = None
    for _ in range(most):
        vector /= np.linalg.norm(vector) + 1e-6
        product = operator @ vector
        new = float(product @ vector)
        if value is not None and abs(new - value) / (abs(value) + 1e-6) < tolerance:
            return new
        value, vector = new, product
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 16])
    parser.add_argument("--choices", type=int, nargs="+", default=[28])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--power-iteration", metavar="TEXTS", help="labelled texts")
    parser.add_argument("--texts", help="real texts instead of random ones")
    parser.add_argument("--label-column")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    loaded = load_model(options.model)
    profile = profile_model(loaded)
    shapes = {(m.rows, m.columns): m for m in profile.matrices}
    base = {
        "model": Path(options.model).name, "layers": profile.num_blocks, "kind": loaded.head.kind,
        "classes": loaded.model.config.num_labels, "texts": Path(options.texts).name if options.texts else "random",
        "samples": options.samples, "threads": torch.get_num_threads(), "commit": code_commit(),
    }  # fmt: skip
    for tokens in options.tokens:
        batches = real_texts(loaded, options, tokens) if options.texts else texts(loaded, options.samples, tokens)
        mean = round(mean_tokens(batches), 1)
        for count in options.choices:
            errors = {shape: rounding_errors(loaded, profile, m, count) for shape, m in shapes.items()}
            steps, passes, wholes, ratios = [], [], [], []
            for _ in range(options.rounds):
                step, _ = seconds(lambda batches=batches: training_step(loaded, batches))
                start = time.process_time()
                whole, (passed, backs) = seconds(
                    lambda batches=batches, errors=errors: scores(loaded, profile, batches, errors)
                )
                steps.append(step)
                passes.append(passed - start)
                wholes.append(whole)
                ratios.append(whole / step)
            rows = {"training_step_s": steps, "factor_pass_s": passes, "all_scores_s": wholes, "times_a_step": ratios}
            figures = {name: summary(values) for name, values in rows.items()}
            what = {"tokens": mean, "choices": count, "back_propagations": round(backs, 2)}
            print(json.dumps(base | what | figures), flush=True)
    rounding, _ = seconds(lambda: [rounding_errors(loaded, profile, m, 28) for m in profile.matrices[:6]])
    print(
        json.dumps(base | {"rounding_all_matrices_rtn_s": round(rounding * len(profile.matrices) / 6, 2)}), flush=True
    )
    if options.power_iteration:
        compare(loaded, profile, texts(loaded, options.samples, options.tokens[0]), base, options)


def compare(loaded, profile, batches, base, options) -> None:
    """Power iteration per matrix beside Lanczos at the accuracy that it reached, and beside all scores."""
    [few] = split_disjoint(read_texts(options.power_iteration), [32], seed=0)
    few_batches = tokenize(loaded.tokenizer, few.texts, batch_size=BATCH)
    few_loss = LabelledLoss(loaded.model, loaded.head, read_targets(loaded, few, few_batches))
    guessed = torch.cat([loaded.model(**batch.inputs).logits.argmax(-1) for batch in batches])
    loss = LabelledLoss(loaded.model, loaded.head, Targets("classes", guessed, torch.arange(len(guessed))))
    rows = []
    for index in (2, len(profile.matrices) // 2, len(profile.matrices) - 1):
        name = profile.matrices[index].module
        parameter = [loaded.model.get_parameter(f"{name}.weight")]
        operator = HessianOperator(few_loss, parameter, few_batches)
        exact = top_eigenvalue(operator, seed=1, tolerance=1e-6, max_products=400)
        before = operator.num_products
        found = power_iteration(operator)
        power_products = operator.num_products - before
        error = abs(found - exact) / abs(exact)
        before = operator.num_products
        lanczos = top_eigenvalue(operator, seed=0, tolerance=max(error, 1e-3))
        row = {
            "matrix": name, "power_products": power_products, "power_error": error,
            "lanczos_products": operator.num_products - before, "lanczos_error": abs(lanczos - exact) / abs(exact),
        }  # fmt: skip
        del operator
        whole = HessianOperator(loss, parameter, batches, keep_graphs=False)
        row["product_s"], _ = seconds(lambda whole=whole: whole @ np.ones(whole.shape[0]))
        print(json.dumps(row), flush=True)
        rows.append(row)
    errors = {(m.rows, m.columns): rounding_errors(loaded, profile, m, 28) for m in profile.matrices}
    scores_s, _ = seconds(lambda: scores(loaded, profile, batches, errors))
    products = float(np.mean([row["power_products"] for row in rows]))
    total = float(np.mean([row["power_products"] * row["product_s"] for row in rows])) * len(profile.matrices)
    lanczos_products = sum(row["lanczos_products"] for row in rows)
    print(json.dumps(base | {
        "all_scores_s": scores_s, "power_iteration_all_matrices_s": total,
        "times_all_scores": total / scores_s,
        "power_products_over_lanczos": products * len(rows) / lanczos_products,
    }), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
