"""Texts for measurements that need more unseen text than a data set's own splits leave.

    python benchmarks/splits.py SNIPS_FOLDER WN11_FOLDER OUT

SNIPS: 8,000 texts of train, drawn at random, for `qbert-opt fine-tune`; dev and 1,800 of the other texts to fit and
score; test and 300 others to measure. WN11, whose train set has no false triples: of the test set 16,000 pairs "head
relation" and "tail" to fine-tune (`--text-column a --text-column b --epochs 3`), 2,000 to fit and score, 900
to measure.
"""

import argparse
import csv
import random
from collections.abc import Iterable, Iterator
from pathlib import Path


def write(path: Path, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def utterances(folder: Path) -> list[tuple[str, str]]:
    """Label and text of a split of SNIPS."""
    labels, texts = ((folder / name).read_text().split("\n") for name in ("label", "seq.in"))
    return [(label.strip(), text.strip()) for label, text in zip(labels, texts, strict=False) if label.strip()]


def triples(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Whether it is true, head with relation, tail."""
    names = [
        dict(line.rstrip("\n").split("\t")[:2] for line in (folder / f"{kind}2text.txt").open())
        for kind in ("entity", "relation")
    ]
    for line in (folder / "test.tsv").open():
        head, relation, tail, truth = line.rstrip("\n").split("\t")
        yield "true" if truth == "1" else "false", f"{names[0][head]} {names[1][relation]}", names[0][tail]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("snips", "wn11", "out"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    train, dev, test = (utterances(options.snips / split) for split in ("train", "dev", "test"))
    random.Random(0).shuffle(train)
    trained = {text for _, text in train[:8000]}
    others = [row for row in train[8000:] if row[1] not in trained]
    fit = dev + others[:1800]
    fitted = {text for _, text in fit}
    measured = [row for row in test + others[1800:2100] if row[1] not in fitted]
    for name, rows in (("train", train[:8000]), ("fit", fit), ("measure", measured)):
        write(options.out / f"snips-{name}.tsv", ("label", "sentence"), rows)
    pairs = sorted(set(triples(options.wn11)))
    random.Random(0).shuffle(pairs)
    for name, part in (("train", pairs[:16000]), ("fit", pairs[16000:18000]), ("measure", pairs[18000:18900])):
        write(options.out / f"wn11-{name}.tsv", ("label", "a", "b"), part)


if __name__ == "__main__":
    main()
