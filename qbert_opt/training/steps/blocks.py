"""Block by block: each block learns the float block's output on the float path, from the trained blocks' outputs.

After BRECQ (Li et al. 2021) and EfficientQAT's first phase (Chen et al. 2024), but from a quantizer's codes instead of
the nearest ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from ...runtime import plugins
from ..blocks import BlockCall, hidden_before, hidden_of
from ..phases import BlockError, Phase
from ..relative_error import relative_error
from ..settings import RecoverySettings
from ..student import Student
from ..teacher import Teacher

RATES = (6e-4, 3e-4)  # half of the first leaves 1.04 to 1.35 times the KL, six of six runs (benchmarks/recovery)
COST = 1.0


def num_phases(teacher: Teacher) -> int:
    """One for each block."""
    return len(teacher.blocks)


def phases(
    student: Student, teacher: Teacher, rates: tuple[float, float], settings: RecoverySettings
) -> Iterator[Phase]:
    """One phase for each block.

    Memory: three copies of the text's hidden states, `12 * tokens * d` bytes.
    """
    blocks, model = teacher.blocks, teacher.loaded.model
    weights = plugins.load_as("block_errors", settings.block_error, BlockError).token_weights(teacher)
    calls, wanted, read = [], [], []
    with torch.no_grad():
        now = student.plain()
        for index, batch in enumerate(teacher.batches):
            made = teacher.block_calls(index)
            wanted.append(made[0].hidden)
            calls.append([call.reading(None) for call in made])
            with student.functions:
                read.append(hidden_before(now, blocks[0], batch))
    places = {name: place for place, name in enumerate(name for stage in teacher.stages for name in stage)}
    for number, block in enumerate(blocks):
        of_block = [made[teacher.sources[number]] for made in calls]
        with torch.no_grad():
            for name in teacher.stages[number]:
                for index, made in enumerate(calls):
                    float_call = made[places[name]].reading(wanted[index])
                    wanted[index] = hidden_of(model.get_submodule(name)(*float_call.args, **float_call.kwargs))
        loss = _loss(student, block, of_block, read, wanted, weights[number])
        yield Phase(f"blocks {number + 1}/{len(blocks)}", student.learned(f"{block}."), rates, loss)
        with torch.no_grad():
            tensors = student.tensors(f"{block}.")
            for index, call in enumerate(of_block):
                read[index] = student.call(block, call, read[index], tensors)


def _loss(
    student: Student,
    block: str,
    calls: list[BlockCall],
    read: list[torch.Tensor],
    wanted: list[torch.Tensor],
    weights: list[torch.Tensor],
) -> Callable[[int], torch.Tensor]:
    def loss(index: int) -> torch.Tensor:
        return relative_error(student.call(block, calls[index], read[index]), wanted[index], weights[index][..., None])

    return loss
