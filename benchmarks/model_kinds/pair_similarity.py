"""Do quantized sentence embeddings still order pairs of texts as people's labels do? Spearman, plan by plan.

    python -m benchmarks.model_kinds.pair_similarity MODEL TEXTS OUT.json FOLDER... [--pairs 700]

MODEL is a sentence-transformers folder; each FOLDER is one that `quantize` or `export` made of it, answered in PyTorch
or in its engine. TEXTS are labelled texts, of which pairs are drawn: as many of two texts with the same label (1) as of
two with different labels (0), every draw from a fixed seed. This is no STS: such labels have two values, so that even a
perfect order has a Spearman correlation below 1; what counts is what a plan loses of the float model's.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from benchmarks.records import machine

SEED = 0


def drawn_pairs(texts, count):
    """Pairs of texts, half of them with the same label."""
    from qbert_opt.data.texts import LabeledTexts

    random, labels = np.random.default_rng(SEED), np.array(texts.labels)
    pairs = {0: [], 1: []}
    while min(len(kept) for kept in pairs.values()) < count // 2:
        a, b = random.choice(len(labels), 2, replace=False)
        kept = pairs[int(labels[a] == labels[b])]
        if len(kept) < count // 2:
            kept.append((texts.texts[a][0], texts.texts[b][0]))
    return LabeledTexts(
        f"{count // 2 * 2} pairs of {texts.name}",
        tuple(pair for kept in pairs.values() for pair in kept),
        tuple(str(label) for label, kept in pairs.items() for _ in kept),
    )


def opened(folder):
    """A model in PyTorch or in the engine of its folder, and the name of that."""
    from qbert_opt.checkpoint.reader import load_quantized
    from qbert_opt.engines.record import is_exported, read_record
    from qbert_opt.serving.engine_model import serve

    if not is_exported(folder):
        return load_quantized(folder)[0], "torch"
    return serve(folder, threads=1).loaded, read_record(folder).engine


def figures(evaluation):
    """Spearman and the distance to the float model, each with its interval."""
    found = {name: getattr(evaluation, name) for name in ("spearman", "distance", "cosine")}
    return {name: [i.value, i.low, i.high] for name, i in found.items() if i is not None}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "texts", "out"):
        parser.add_argument(name)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--pairs", type=int, default=700)
    given = parser.parse_args()

    from qbert_opt.data.texts import read_texts
    from qbert_opt.evaluation.evaluate import evaluate, outputs
    from qbert_opt.evaluation.intervals import spearman_interval
    from qbert_opt.models.loading import load_model
    from qbert_opt.runtime.provenance import code_commit, today

    loaded, pairs = load_model(given.model), drawn_pairs(read_texts(given.texts), given.pairs)
    reference = outputs(loaded, pairs)
    rows = [{"plan": "float32", "engine": "torch", **figures(evaluate(loaded, pairs))}]
    for folder in given.folders:
        served, engine = opened(folder)
        name = folder.name.removesuffix(f" in {engine}").removesuffix(f" {engine}")
        rows.append({"plan": name, "engine": engine, **figures(evaluate(served, pairs, reference))})
        print(json.dumps(rows[-1]), flush=True)
    labels = np.array(pairs.labels, dtype=float)
    best = spearman_interval(np.arange(len(labels), dtype=float), labels)  # labels are sorted: a perfect order
    result = {
        "model": Path(given.model).name, "pairs": len(pairs), "of": Path(given.texts).parts[-2:], "seed": SEED,
        "best_possible": best.value,
        "commit": code_commit(), "machine": machine(), "date": today(), "rows": rows,
    }  # fmt: skip
    Path(given.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
