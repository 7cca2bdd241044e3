"""Why end-to-end training after blocks lost what they had won: how many weights change their code, and what that costs.

    python -m benchmarks.recovery.recovery_cells MODEL START CALIBRATION TRAIN OUT.json [--blocks 2] [--updates 24]
        [--rates left:1e-4:5e-5,centred:1e-4:5e-5,centred:4e-4:1e-4]

START is a quantized folder (`recovery.py` writes `start`). Its first blocks are trained for two passes over 1536 texts;
then a few end-to-end updates follow from that state with latent weights as they were left, or in the middle of their
cells, once for each pair of rates of weights and ranges. 256 texts that train nothing give the loss. One thread.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.records import machine
from benchmarks.recovery.recovery import whole_sentences
from qbert_opt.checkpoint.reader import load_quantized, read_matrices
from qbert_opt.data.texts import read_texts
from qbert_opt.models.batches import tokenize
from qbert_opt.models.loading import load_model
from qbert_opt.models.outputs import collect
from qbert_opt.runtime.distributed import Processes
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.training.attention import training_attention
from qbert_opt.training.loop import Held, Stopped, TrainingRun, _pace
from qbert_opt.training.objective import objective
from qbert_opt.training.settings import DEFAULT_LOSSES, RecoverySettings
from qbert_opt.training.student import Student
from qbert_opt.training.teacher import Teacher
from qbert_opt.training.updates import batches_of, set_gradients

NUM_HELD, NUM_TEXTS, BATCH = 256, 1536, 32
NEAR = (0.02, 0.1, 0.25)  # of a step, from the border of a weight's cell


def near_borders(student: Student, prefix: str) -> list[float]:
    """Shares of weights whose latent value is near another code; in uniform cells they would be 0.04, 0.2 and 0.5."""
    found = []
    for module, matrix in student._trained().items():
        if module.startswith(prefix):
            codes, scale, offset = matrix._parts()
            at = (matrix.latent - offset) / scale
            inside = (at > -0.5) & (at < codes.max() + 0.5)
            found.append((0.5 - (at - codes).abs())[inside])
    distances = torch.cat(found)
    return [round(float((distances < limit).float().mean()), 4) for limit in NEAR]


class Study:
    """Texts, the start, and the rows."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.rows = options, list[dict[str, object]]()
        loaded, start = load_model(options.model), Path(options.start)
        pool = sorted({*whole_sentences(read_texts(options.train)).texts, *read_texts(options.calibration).texts})
        order = np.random.default_rng(0).permutation(len(pool))
        texts = [pool[place] for place in order[: NUM_HELD + NUM_TEXTS]]
        held, batches = (
            tokenize(loaded.tokenizer, part, batch_size=BATCH, kind=loaded.head.kind)
            for part in (texts[:NUM_HELD], texts[NUM_HELD:])
        )
        self.held = Held(held, collect(loaded.head, loaded.model, held))
        opened, plan = load_quantized(start, into=loaded, round_inputs=False)
        self.teacher = Teacher(loaded, plan, batches)
        self.student = Student(
            loaded.model, plan, read_matrices(start, plan), others=dict(opened.model.named_parameters())
        )

    def add(self, **row: object) -> None:
        self.rows.append(row | {"cpu_s": round(time.process_time(), 1)})
        print(*row.values(), flush=True)

    def blocks(self) -> None:
        """Train the first blocks, and leave the student there."""
        settings = RecoverySettings(steps=("blocks",), epochs={"blocks": 2.0}, rates={"blocks": (6e-4, 3e-4)})

        def over(record) -> None:  # type: ignore[no-untyped-def]
            self.add(what=record.phase, updates=record.updates, held_back_kl=round(record.held_loss, 5))
            if record.phase.startswith(f"blocks {self.options.blocks}/"):
                raise Stopped

        run = TrainingRun(self.student, self.teacher, self.held, settings, phase_over=over)
        self.add(what="gptq", held_back_kl=round(run.state.progress.start_loss, 5))
        run.go()
        for number, block in enumerate(self.teacher.blocks):
            trained = "trained" if number < self.options.blocks else "gptq's"
            self.add(what=f"block {number + 1}, {trained}: near borders", shares=near_borders(self.student, block))

    def distill(self, start: str, weights: float, ranges: float) -> None:
        """A few updates end to end."""
        before = {name: tensor.clone() for name, tensor in self.student.state_dict().items()}
        if start == "centred":
            self.student.centre()
        codes = {name: matrix.stored().codes for name, matrix in self.student._trained().items()}
        loss, learned = objective(self.student, self.teacher, DEFAULT_LOSSES), self.student.learned()
        groups = [{"params": learned.weights, "rate": weights}, {"params": learned.ranges, "rate": ranges}]
        parameters = [*learned.weights, *learned.ranges]
        for parameter in parameters:
            parameter.requires_grad_(True)
        optimizer = torch.optim.AdamW(groups, lr=0.0, weight_decay=0.0, fused=True)
        count, updates, losses = len(self.teacher.batches), self.options.updates, []
        with training_attention(self.teacher.batches):
            for update in range(updates):
                losses.append(set_gradients(loss, batches_of(update, 1, count, 0), parameters, Processes()))
                for group in optimizer.param_groups:
                    group["lr"] = group["rate"] * _pace(update, updates)
                optimizer.step()
        changed = [
            float((matrix.stored().codes != codes[name]).float().mean())
            for name, matrix in self.student._trained().items()
        ]
        self.add(
            what=f"end to end, {start}", rates=[weights, ranges], updates=updates,
            training_loss=[round(float(np.mean(part)), 3) for part in np.array_split(losses, 8)],
            held_back_kl=round(self.held.loss(self.student, self.teacher), 5),
            codes_changed=round(float(np.mean(changed)), 4),
        )  # fmt: skip
        self.student.load_state_dict(before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "start", "calibration", "train", "out"):
        parser.add_argument(name)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--updates", type=int, default=24)
    parser.add_argument("--rates", default="left:1e-4:5e-5,centred:1e-4:5e-5,centred:4e-4:1e-4")
    options = parser.parse_args()
    torch.set_num_threads(1)
    study = Study(options)
    study.blocks()
    for part in options.rates.split(","):
        start, weights, ranges = part.split(":")
        study.distill(start, float(weights), float(ranges))
    document = {"commit": code_commit(), "machine": machine(), "rows": study.rows}
    Path(options.out).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
