"""Would a plan ever give matrices or attention heads 0 bits? What leaving them out costs, beside what the bytes buy.

    python -m benchmarks.pruning.zero_bits MODEL CALIBRATION TEXTS SCORES OUT.jsonl [--choosing 300] [--texts 500]
        [--bits 2.05 2.25 2.5 3.0]

Every matrix and every attention head of a BERT is left out alone, all else in float32: what it added is replaced by its
mean over CALIBRATION, which goes into a bias, so that nothing of it is stored. KL is measured on `--choosing` texts: no
second-order estimate, which means nothing at this distance. Then the heads that cost least are left out together, and
`--texts` others judge. The bytes that this frees (the head's part of query, key, value and output) buy more bits for
the rest: the plan of SCORES with that many bytes more says how much less it loses.
"""

import argparse
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import qbert_opt as qb
from benchmarks.records import machine, rounded
from qbert_opt.evaluation.evaluate import evaluation_batches
from qbert_opt.evaluation.intervals import Interval, ratio_interval
from qbert_opt.models.heads import KINDS
from qbert_opt.models.heads.protocol import per_text
from qbert_opt.models.loading import LoadedModel
from qbert_opt.models.outputs import Outputs, collect
from qbert_opt.models.samples import TokenBatch
from qbert_opt.planning.planner import allocate
from qbert_opt.runtime.provenance import code_commit, today
from qbert_opt.spec.allocation import Allocation
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.profiles import ModelProfile

OUTPUT = "attention.output.dense"
TOGETHER = (6, 12, 18, 24, 36, 48)
Part = tuple[str, slice]


class Study:
    """The float model with some inputs of some matrices replaced by their means."""

    def __init__(self, loaded: LoadedModel, names: list[str], calibration: list[TokenBatch]) -> None:
        self.loaded = loaded
        self.modules = {name: loaded.model.get_submodule(name) for name in names}
        sums = {name: torch.zeros(module.in_features) for name, module in self.modules.items()}
        count = 0
        for batch in calibration:
            for name, inputs in self._inputs(batch).items():
                sums[name] += inputs[batch.mask.bool()].sum(0)
            count += int(batch.mask.sum())
        self.means = {name: total / count for name, total in sums.items()}

    def _inputs(self, batch: TokenBatch) -> dict[str, torch.Tensor]:
        """What each matrix is multiplied with."""
        found: dict[str, torch.Tensor] = {}
        hooks = [
            module.register_forward_pre_hook(lambda _, x, name=name: found.__setitem__(name, x[0].detach()))
            for name, module in self.modules.items()
        ]
        collect(self.loaded.head, self.loaded.model, [batch])
        for hook in hooks:
            hook.remove()
        return found

    @torch.no_grad()
    def without(self, parts: Iterable[Part], batches: list[TokenBatch]) -> Outputs:
        """Answer with these inputs of these matrices left out."""
        kept = {}
        for name, part in parts:
            module = self.modules[name]
            kept.setdefault(name, (module.weight.clone(), module.bias.clone()))
            module.bias += module.weight[:, part] @ self.means[name][part]
            module.weight[:, part] = 0
        answers = collect(self.loaded.head, self.loaded.model, batches)
        for name, (weight, bias) in kept.items():
            self.modules[name].weight.copy_(weight)
            self.modules[name].bias.copy_(bias)
        return answers

    def kl(self, parts: Iterable[Part], batches: list[TokenBatch], truth: Any) -> Interval:
        """KL to the whole model."""
        answers = self.without(parts, batches)
        kl = per_text(answers, KINDS[self.loaded.head.kind].loss.of_rows(truth, answers.values))
        return ratio_interval(np.asarray(kl.above), np.asarray(kl.below))


def head_parts(profile: ModelProfile) -> Iterator[tuple[str, list[Part]]]:
    """Name each head, with its inputs of the attention's output matrix."""
    for matrix in profile.matrices:
        if matrix.module.endswith(OUTPUT):
            size = matrix.columns // profile.heads
            for head in range(profile.heads):
                yield f"{matrix.block}.{head}", [(matrix.module, slice(head * size, (head + 1) * size))]


def of_head(plan: Allocation, name: str, field: str) -> float:
    """A figure of the plan's four matrices of a layer's attention, for one of its heads."""
    block = int(name.split(".")[0])
    parts = [m for m in plan.matrices if m.block == block and ".attention." in m.module]
    return sum(getattr(matrix, field) for matrix in parts) / plan.profile.heads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "calibration", "data", "scores"):
        parser.add_argument(name)
    parser.add_argument("output", type=Path)
    parser.add_argument("--choosing", type=int, default=300)
    parser.add_argument("--texts", type=int, default=500)
    parser.add_argument("--bits", type=float, nargs="+", default=(2.05, 2.25, 2.5, 3.0))
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.process_time()
    loaded, table = qb.load_model(options.model), qb.read_scores(options.scores)
    texts, head, profile = qb.read_texts(options.data), loaded.head, table.profile
    choosing = evaluation_batches(loaded, texts.take(range(options.choosing)))
    judging = evaluation_batches(loaded, texts.take(range(options.choosing, options.choosing + options.texts)))
    some = qb.read_texts(options.calibration).take(range(128))
    study = Study(loaded, [matrix.module for matrix in profile.matrices], evaluation_batches(loaded, some))
    truth, other_truth = (collect(head, loaded.model, batches).values for batches in (choosing, judging))
    whole = {matrix.module: [(matrix.module, slice(None))] for matrix in profile.matrices}
    heads = dict(head_parts(profile))
    alone = {}
    for name, parts in (whole | heads).items():
        alone[name] = study.kl(parts, choosing, truth)
        print(f"{time.process_time() - started:6.0f} s  {name}: {alone[name].value:.5f}", flush=True)
    order = sorted(heads, key=lambda name: alone[name].value)
    together = {}
    for count in (n for n in TOGETHER if n < len(order)):
        together[count] = study.kl([part for name in order[:count] for part in heads[name]], judging, other_truth)
        print(f"{time.process_time() - started:6.0f} s  {count} heads: {together[count].value:.5f}", flush=True)
    about = {
        "model": Path(loaded.name).name, "choosing": options.choosing, "judging": options.texts,
        "cpu_minutes": round((time.process_time() - started) / 60, 1), "commit": code_commit(), "date": today(),
        "machine": machine(),
    }  # fmt: skip
    with options.output.open("a", encoding="utf-8") as out:
        for bits in options.bits:
            limit = int(bits * profile.encoder_elements / 8)
            plan = allocate(table, Limits(encoder_bytes=limit))
            rows = [_matrices(table, plan, limit, {name: alone[name] for name in whole})]
            rows += [_heads(table, plan, limit, order[:count], kl) for count, kl in together.items()]
            for row in rows:
                out.write(json.dumps(about | {"bits": bits, "plan_nats": rounded(plan.predicted_loss)} | row) + "\n")


def _matrices(table: qb.ScoreTable, plan: Allocation, limit: int, alone: dict[str, Interval]) -> dict[str, Any]:
    """Judge each matrix alone; the row is of the one that it would pay most, or cost least, to leave out."""
    found = []
    for matrix in plan.matrices:
        buys = _bought(table, plan, limit, matrix.bytes)
        found.append((buys + matrix.predicted_loss - alone[matrix.module].value, buys, matrix))
    gain, buys, matrix = max(found, key=lambda item: item[0])
    return {
        "left_out": matrix.module, "worth_it": f"{sum(g > 0 for g, *_ in found)} of {len(found)} matrices",
        "kl": _three(alone[matrix.module]), "loses_in_plan": rounded(matrix.predicted_loss), "bytes": matrix.bytes,
        "bytes_buy": rounded(buys), "gain": rounded(gain),
    }  # fmt: skip


def _heads(table: qb.ScoreTable, plan: Allocation, limit: int, names: list[str], kl: Interval) -> dict[str, Any]:
    """Judge heads that are left out together."""
    freed = round(sum(of_head(plan, name, "bytes") for name in names))
    buys, loses = _bought(table, plan, limit, freed), sum(of_head(plan, name, "predicted_loss") for name in names)
    return {
        "left_out": f"{len(names)} heads", "kl": _three(kl), "loses_in_plan": rounded(loses), "bytes": freed,
        "bytes_buy": rounded(buys), "gain": rounded(buys + loses - kl.value),
    }  # fmt: skip


def _bought(table: qb.ScoreTable, plan: Allocation, limit: int, more_bytes: int) -> float:
    """How much less a plan with more bytes loses."""
    return plan.predicted_loss - allocate(table, Limits(encoder_bytes=limit + more_bytes)).predicted_loss


def _three(found: Interval) -> list[float]:
    return [rounded(found.value), rounded(found.low), rounded(found.high)]


if __name__ == "__main__":
    main()
