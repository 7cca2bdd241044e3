"""Factor passes that processes divide by texts give the factors of one process, bit for bit."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from queue import Queue

import pytest
import torch
import warm_process

from qbert_opt.curvature.columns import FactorPlan
from qbert_opt.curvature.factors import SampleFactors
from qbert_opt.models.batches import tokenize
from qbert_opt.models.structure import profile_model
from qbert_opt.runtime.distributed import Processes
from qbert_opt.runtime.memory_budget import MemoryShares
from qbert_opt.runtime.resumable import Jobs
from qbert_opt.scoring import divided_pass as module
from qbert_opt.scoring.task import ScoringTask
from qbert_opt.spec.scores import read_scores


@dataclass(frozen=True)
class InThreads(Processes):
    """Processes that are threads: what one hands on goes through a queue for each receiver."""

    queues: tuple[Queue, ...] = field(default=())

    def handed_to(self, receiver, content):
        if self.rank == receiver:
            return [self.queues[receiver].get(timeout=60) for _ in range(self.count - 1)]
        self.queues[receiver].put(content())
        return []


def task_of(tiny, batches, team):
    return ScoringTask(
        tiny.model, profile_model(tiny), batches, None, lambda _matrix: iter(()), MemoryShares(1 << 30), 0,
        jobs=Jobs(None, "", team), given_head=tiny.head,
    )  # fmt: skip


def same(one: SampleFactors, other: SampleFactors) -> bool:
    sharp = (one.sharpening, other.sharpening)
    return (
        one.index == other.index
        and torch.equal(one.inputs, other.inputs)
        and torch.equal(one.gradients, other.gradients)
        and (sharp == (None, None) if None in sharp else torch.equal(*sharp))
    )


@pytest.mark.parametrize("plan", [FactorPlan(2.0, frozenset({2, 7})), FactorPlan()])
@pytest.mark.parametrize("count", [2, 3])
def test_each_text_runs_once_and_its_factors_are_those_of_one_process(tiny, sentences, monkeypatch, plan, count):
    """Matrices of their own for each process, and a table that all of them need."""
    batches = list(plan.batched(tiny.head, tokenize(tiny.tokenizer, sentences.texts[:20], batch_size=4)))
    names = [matrix.module for matrix in profile_model(tiny).matrices[:5]]
    table = "bert.embeddings.word_embeddings"
    needed = [[*names[rank::count], table] for rank in range(count)]
    alone = module.pass_over(task_of(tiny, batches, Processes()), batches, [*names, table], plan)
    ran: list[int] = []
    run = module.pass_over

    def noted(task, part, *rest):
        ran.extend(index for batch in part for index in batch.indices)
        return run(task, part, *rest)

    monkeypatch.setattr(module, "pass_over", noted)
    queues = tuple(Queue() for _ in range(count))
    teams = [InThreads(rank, count, queues=queues) for rank in range(count)]
    with ThreadPoolExecutor(count) as pool:
        found = list(pool.map(lambda team: module.divided_pass(task_of(tiny, batches, team), needed, plan), teams))
    assert sorted(ran) == list(range(20))
    assert [list(part) for part in found] == needed
    for part in found:
        for name, samples in part.items():
            assert len(samples) == 20 and all(map(same, samples, alone[name]))


def test_factors_survive_the_way_as_bytes():
    """Of every type, and none at all."""
    generator = torch.Generator().manual_seed(0)
    sample = SampleFactors(3, torch.randn(5, 3, generator=generator), torch.randn(2, 5, 7, generator=generator))
    kinds = [
        sample,
        replace(sample, index=4, sharpening=torch.randn(2, 2, generator=generator)),
        replace(sample, inputs=torch.arange(5)[:, None]),
        replace(sample, inputs=sample.inputs.double(), gradients=sample.gradients.double()),
        replace(sample, inputs=sample.inputs[:0], gradients=sample.gradients[:, :0]),
    ]
    for group in (kinds, kinds[::-1], []):
        back = list(module._unpacked(module._packed(group)))
        assert len(back) == len(group) and all(map(same, back, group))
        assert [s.inputs.dtype for s in back] == [s.inputs.dtype for s in group]


@pytest.mark.parametrize("limit", ["2GiB", "12MiB"])
def test_two_processes_give_every_number_of_one(cli, tmp_path, tiny_folder, data_file, limit):
    """Matrices in one pass or in several, which processes divide, and tables: equal in every bit."""
    command = ["sensitivity", "--model", tiny_folder, "--data", data_file, "--method", "rtn", "--bits", "2,4",
               "--calibration-samples", 9, "--scoring-samples", 40, "--memory-limit", limit, "-q", "-o"]  # fmt: skip
    warm_process.in_two(tmp_path, [*command, tmp_path / "two.json"])
    assert cli(*command, tmp_path / "one.json").code == 0
    one, two = (read_scores(tmp_path / f"{name}.json") for name in ("one", "two"))
    assert one.model_dump(exclude={"provenance"}) == two.model_dump(exclude={"provenance"})
    assert one.tables is not None and one.tables.value
