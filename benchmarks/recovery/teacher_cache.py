"""What a stored share of the teacher's states costs and saves: bytes, and processor time of the teacher per batch.

    python -m benchmarks.recovery.teacher_cache MODEL PLAN_FOLDER TEXT OUT.json [--batches 24] [--rounds 3]

For each share: the size of the stored states, the time to run the teacher and store a batch, and the time to read it
again, beside the teacher's own pass and a training step of the student (forward and backward, losses logits and hidden)
with the stored states. Minimum over the rounds of the sum over batches of 32 texts. One thread.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.records import machine
from qbert_opt.checkpoint.reader import load_quantized, read_matrices
from qbert_opt.data.texts import read_texts
from qbert_opt.models.batches import tokenize
from qbert_opt.models.loading import load_model
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.training.objective import objective, points_of
from qbert_opt.training.student import Student
from qbert_opt.training.teacher import Teacher
from qbert_opt.training.teacher_cache import StoringTeacher

LOSSES = {"logits": 1.0, "hidden": 1.0}
SHARES = (1.0, 0.1, 0.01)


def seconds(work: Callable[[int], object], batches: int, rounds: int) -> float:
    """Return the least processor time of a round over all batches."""
    times = []
    for _ in range(rounds):
        begun = time.process_time()
        for index in range(batches):
            work(index)
        times.append(time.process_time() - begun)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "folder", "text", "out"):
        parser.add_argument(name)
    parser.add_argument("--batches", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_model(options.model)
    opened, plan = load_quantized(Path(options.folder), into=loaded)
    texts = read_texts(options.text)
    texts = texts.take(range(min(len(texts), 32 * options.batches)))
    batches = tokenize(loaded.tokenizer, texts.texts, batch_size=32)
    teacher = Teacher(loaded, plan, batches)
    points = points_of(LOSSES, len(teacher.blocks))
    modules = teacher.modules_of(points)
    student = Student(
        loaded.model, plan, read_matrices(Path(options.folder), plan), others=dict(opened.model.named_parameters())
    )
    runs = seconds(lambda index: teacher.run(index, modules), len(batches), options.rounds)
    found: dict[str, object] = {
        "model": Path(options.model).name,
        "batches": len(batches),
        "tokens": sum(int(batch.mask.sum()) for batch in batches),
        "teacher_s": round(runs, 3),
        "commit": code_commit(),
        "machine": machine(),
    }
    rows = []
    for share in SHARES:
        with tempfile.TemporaryDirectory() as place:
            stored = StoringTeacher(loaded, plan, batches, folder=Path(place) / "states", points=points, share=share)
            storing = seconds(lambda index, stored=stored: stored.answer(index, modules), len(batches), 1)
            reading = seconds(lambda index, stored=stored: stored.answer(index, modules), len(batches), options.rounds)
            loss = objective(student, stored, LOSSES)
            step = seconds(lambda index, loss=loss: loss(index).backward(), len(batches), 1)
            rows.append(
                {
                    "share": share,
                    "bytes": stored.num_bytes,
                    "store_s": round(storing, 3),
                    "read_s": round(reading, 3),
                    "step_s": round(step, 3),
                    "speed_up_of_a_step": round((step - reading + runs) / step, 2),
                }
            )
            print(*rows[-1].values(), flush=True)
    Path(options.out).write_text(json.dumps(found | {"shares": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
