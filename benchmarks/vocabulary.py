"""What a smaller vocabulary saves, and what it costs on text that did not choose it.

    python benchmarks/vocabulary.py MODEL CHOOSING TEST OUT.jsonl [--min-counts 1,2,4]

For each least count: rows and bytes before and after, how much of the test text splits differently, and accuracy, KL
and changed answers beside the whole model, over all test texts and over those that split differently: the answers to
the others are equal to the last bit, which is checked. Appends a line per row to OUT.jsonl.
"""

import argparse
import json
import platform
import tempfile
from pathlib import Path

import torch

from qbert_opt.data.texts import read_texts
from qbert_opt.evaluation.evaluate import evaluate, outputs
from qbert_opt.models.loading import load_model
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.spec.profiles import TABLE_BITS
from qbert_opt.workflows.trim_vocabulary import trim_vocabulary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "choosing", "test", "out"):
        parser.add_argument(name)
    parser.add_argument("--min-counts", default="1,2,4")
    options = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_model(options.model)
    choosing, test = read_texts(options.choosing), read_texts(options.test)
    answers = outputs(loaded, test)
    whole = evaluate(loaded, test)
    for count in map(int, options.min_counts.split(",")):
        with tempfile.TemporaryDirectory() as place:
            trimmed = trim_vocabulary(loaded, [choosing], Path(place) / "out", min_count=count, test_data=test)
            smaller = load_model(Path(place) / "out")
            kept = set(smaller.tokenizer.get_vocab())
            split = [i for i, text in enumerate(test.texts) if not set(loaded.tokenizer.tokenize(text[0])) <= kept]
            same = [i for i in range(len(test)) if i not in set(split)]
            after = evaluate(smaller, test, answers)
            rare = evaluate(smaller, test.take(split), outputs(loaded, test.take(split)))
            rare_before = evaluate(loaded, test.take(split))
            equal = bool(torch.equal(outputs(smaller, test.take(same)), outputs(loaded, test.take(same))))
        reading, hidden = trimmed.reading, loaded.model.config.hidden_size
        assert reading is not None and after.kl is not None and rare.kl is not None
        row_bytes = hidden * TABLE_BITS // 8 + 4  # 8-bit codes, fp16 scale and offset
        row = {
            "model": Path(options.model).name,
            "choosing": f"{len(choosing)} texts of {Path(options.choosing).name}",
            "test": f"{len(test)} texts of {Path(options.test).name}",
            "min_count": count,
            "rows": trimmed.rows,
            "weight_bytes": trimmed.weight_bytes,
            "table_bytes_at_8_bits": [rows * row_bytes for rows in trimmed.rows],
            "pieces_split": reading.num_dropped / reading.num_pieces,
            "texts_split": len(split),
            "pieces_per_text": [reading.num_pieces / len(test), reading.num_pieces_after / len(test)],
            "unknown": reading.unknown,
            "accuracy": [whole.accuracy.value, after.accuracy.value] if whole.accuracy and after.accuracy else None,
            "kl": [after.kl.value, after.kl.low, after.kl.high],
            "flipped": after.flipped,
            "of_split_texts": {
                "accuracy": [rare_before.accuracy.value, rare.accuracy.value]
                if rare_before.accuracy and rare.accuracy
                else None,
                "kl": [rare.kl.value, rare.kl.low, rare.kl.high],
            },
            "others_equal": equal,
            "commit": code_commit(),
            "machine": f"{platform.machine()}, 1 thread",
        }
        print(row, flush=True)
        with Path(options.out).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
