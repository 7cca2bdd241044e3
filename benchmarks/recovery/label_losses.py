"""Does dice loss help entity F1: the same encoder, text, rate and steps, fine-tuned with cross-entropy and with dice.

    python -m benchmarks.recovery.label_losses ENCODER TRAIN TEST OUT.jsonl --work FOLDER [--seeds 0,1] [--rates 3e-4]

TRAIN and TEST have tags in column `tags`. A row per loss, rate and seed: entity F1 and word accuracy on TEST, which
decides nothing, and how far entity F1 is above that of cross-entropy at the same rate and seed, paired over sentences
with a 95 % bootstrap interval. One thread; rows that OUT.jsonl has are not measured again.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from benchmarks.records import machine
from qbert_opt.data.texts import read_texts
from qbert_opt.evaluation.evaluate import evaluate, outputs
from qbert_opt.models.loading import load_model
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.training.fine_tuning import fine_tune

LOSSES = ("cross-entropy", "dice")  # the first is compared with


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("encoder", "train", "test", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder of the models")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--rates", default="3e-4")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    train, test = (read_texts(source, label_column="tags") for source in (options.train, options.test))
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    for seed in map(int, options.seeds.split(",")):
        for rate in map(float, options.rates.split(",")):
            reference = None
            for loss in LOSSES:
                folder = options.work / f"{loss}-{rate:g}-{seed}"
                key = {"loss": loss, "learning_rate": rate, "seed": seed, "epochs": options.epochs}
                key |= {"batch_size": options.batch_size, "trained": len(train)}
                begun = time.process_time()
                if not folder.exists():
                    fine_tune(
                        options.encoder, train, folder, kind="tags", loss=loss, learning_rate=rate, seed=seed,
                        epochs=options.epochs, batch_size=options.batch_size,
                    )  # fmt: skip
                minutes = (time.process_time() - begun) / 60
                if any(key.items() <= row.items() for row in rows) and loss != LOSSES[0]:
                    continue
                model = load_model(str(folder))
                found = evaluate(model, test, reference)
                reference = outputs(model, test) if reference is None else reference
                if any(key.items() <= row.items() for row in rows):
                    continue
                f1, gain = found.entity_f1, found.drop
                row = key | {
                    "entity_f1": [round(100 * x, 2) for x in (f1.value, f1.low, f1.high)],
                    "accuracy": round(100 * found.accuracy.value, 2),
                    "gain": None if gain is None else [round(-100 * x, 2) for x in (gain.value, gain.high, gain.low)],
                    "cpu_minutes": round(minutes, 2),
                    "commit": code_commit(),
                    "machine": f"{machine()}, {torch.get_num_threads()} thread",
                }
                rows.append(row)
                with options.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
