"""Texts for measurements that need more unseen text than a data set's own splits leave.

    python -m benchmarks.predictions.splits OUT [--snips FOLDER] [--wn11 FOLDER] [--squad FILE]

SNIPS: 8,000 texts of train, drawn at random, for `qbert-opt fine-tune`; dev and 1,800 of the other texts to fit and
score; test and 300 others to measure. WN11, whose train set has no false triples: of the test set 16,000 pairs "head
relation" and "tail" to fine-tune (`--text-column a --text-column b --epochs 3`), 2,000 to fit and score, 900
to measure, or all 3,024 that are left. SQuAD, whose dev set alone is read: whole articles to train, to fit and score,
and to measure, so that no paragraph is on two sides; questions of up to 120 words with their paragraph.
"""

import argparse
import csv
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from qbert_opt.data.texts import read_texts

MOST_WORDS = 120  # of a question and its paragraph, some 150 tokens
SIDES = {"train": "train", "dev": "fit", "test": "measure"}


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


def write_utterances(folder: Path, out: Path) -> None:
    """Write the sides of SNIPS; no text is on two of them."""
    train, dev, test = (utterances(folder / split) for split in ("train", "dev", "test"))
    random.Random(0).shuffle(train)
    trained = {text for _, text in train[:8000]}
    others = [row for row in train[8000:] if row[1] not in trained]
    fit = dev + others[:1800]
    fitted = {text for _, text in fit}
    measured = [row for row in test + others[1800:2100] if row[1] not in fitted]
    for name, rows in (("train", train[:8000]), ("fit", fit), ("measure", measured)):
        write(out / f"snips-{name}.tsv", ("label", "sentence"), rows)


def write_pairs(folder: Path, out: Path) -> None:
    """Write the sides of WN11."""
    pairs = sorted(set(triples(folder)))
    random.Random(0).shuffle(pairs)
    parts = {"train": pairs[:16000], "fit": pairs[16000:18000], "measure": pairs[18000:18900], "left": pairs[18000:]}
    for name, part in parts.items():
        write(out / f"wn11-{name}.tsv", ("label", "a", "b"), part)


def write_questions(file: Path, out: Path) -> None:
    """Write the short questions of each side, with all accepted answers."""
    for split, side in SIDES.items():
        data = read_texts(file, split=split)
        with (out / f"squad-{side}.jsonl").open("w") as rows:
            for (question, context), answers in zip(data.texts, data.labels or (), strict=True):
                if len(question.split()) + len(context.split()) <= MOST_WORDS:
                    row = {"question": question, "context": context, "answers": json.loads(answers)}
                    rows.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--snips", type=Path, help="folder with train, dev and test, each with `label` and `seq.in`")
    parser.add_argument("--wn11", type=Path, help="folder with test.tsv, entity2text.txt and relation2text.txt")
    parser.add_argument("--squad", type=Path, help="dev set of SQuAD in the official layout")
    options = parser.parse_args()
    sources = ((options.snips, write_utterances), (options.wn11, write_pairs), (options.squad, write_questions))
    if all(source is None for source, _ in sources):
        parser.error("no data set. Give --snips, --wn11 or --squad.")
    options.out.mkdir(parents=True, exist_ok=True)
    for source, write_sides in sources:
        if source is not None:
            if not source.exists():
                parser.error(f"{source}: there is no such file or folder.")
            write_sides(source, options.out)


if __name__ == "__main__":
    main()
