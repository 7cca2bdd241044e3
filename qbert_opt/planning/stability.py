"""Does a plan hang on which texts happened to score? And how much text is enough?

Nothing is run through the model again: the table holds its scores on a few equal parts of the scoring text. Which
choices change is asked by the bootstrap over these parts (Efron 1979); how much text is enough by plans made from ever
more parts, each judged on a part that none of them saw.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from ..errors import InfeasibleError, UsageError
from ..runtime.files import read_document, write_text
from ..runtime.frozen import Frozen
from ..runtime.progress import Progress, silent
from .cross_fit import TIME_LIMIT_S, chosen_by, loss_of
from .program import PlanningTask
from .solving import Plan

SCHEMA = "qbert-opt/stability@1"
RELATIVE_GAP = 1e-6  # a plan that stops earlier may differ from others by more than the text makes it
ENOUGH = 1.05  # times the loss that all text reaches


class _Finite(Frozen):
    """A value without infinite or undefined numbers."""

    model_config = ConfigDict(allow_inf_nan=False)


class ChoiceStability(_Finite):
    """What resampled text chooses for one matrix or table.

    Attributes:
        module: the matrix or table.
        choice: what the plan chose.
        kept: share of resamples that choose the same.
        kept_bits: share of resamples that choose as many bits.
        rivals: other choices with the share of resamples that take them, most frequent first.
    """

    module: str
    choice: str
    kept: float
    kept_bits: float
    rivals: tuple[tuple[str, float], ...]


class TextAmount(_Finite):
    """What plans from so much text lose on text that they have not seen.

    Attributes:
        samples: texts that chose the plan.
        loss: predicted loss on a part that did not, mean over all ways to leave one part out.
        excess: its ratio to the loss of plans from all other parts, on the same parts; `std_error` of that ratio.
    """

    samples: int
    loss: float
    excess: float
    std_error: float


class Stability(_Finite):
    """How a plan hangs on the scoring text.

    Attributes:
        document_schema: which kind of document this is.
        model: the model's name; `data` that of the text.
        loss_unit: what losses are in.
        encoder_bytes: of the plan.
        resamples: plans from resampled text; `folds` parts that were resampled, of `samples_per_fold` texts each.
        items: each matrix and table, those that change most first.
        regret: mean ratio of a resampled plan's predicted loss, by all text, to the plan's own, minus 1.
        text: plans from ever more text.
        enough: least number of texts whose plans lose at most 5 % more than those from the most text, on unseen parts;
            None where only the most does: more text would still help.
    """

    document_schema: str = Field(default=SCHEMA, alias="schema")
    model: str
    data: str
    loss_unit: str
    encoder_bytes: int
    resamples: int
    folds: int
    samples_per_fold: int
    items: tuple[ChoiceStability, ...]
    regret: float
    text: tuple[TextAmount, ...]
    enough: int | None


def measure_stability(
    task: PlanningTask,
    plan: Plan,
    *,
    resamples: int,
    progress: Progress = silent,
) -> Stability:
    """Make a plan again from resampled and from less text.

    Args:
        task: scores and limits.
        plan: its solution by all text.
        resamples: bootstrap draws.
        progress: called with plans made, plans in all, and what goes on.

    Raises:
        UsageError: the scores are of no parts of a text: a metric that is no mean over samples, or too few samples.
        InfeasibleError: no plan within the time of one.
    """
    folds = task.scores.item_folds()
    if not len(folds):
        raise UsageError(
            f"`stability`: {task.scores.metric} scores of {task.scores.provenance.num_scored} samples hold no parts to "
            "resample. Use `metric` directional and at least 16 `num_scored`."
        )
    count = len(folds)
    total = resamples + count * (count - 1)
    done = 0

    def chosen(values: NDArray[np.float64], what: str) -> NDArray[np.int_]:
        nonlocal done
        found = chosen_by(task, plan.problem, values, RELATIVE_GAP)
        if found is None:
            raise InfeasibleError(f"`stability`: no plan found within {TIME_LIMIT_S:.0f} s.")
        done += 1
        progress(done, total, what)
        return found

    own = np.array(plan.solution.choice) % folds.shape[2]
    generator = np.random.default_rng(task.scores.provenance.seed)
    draws = [chosen(folds[generator.integers(0, count, count)].mean(0), "resampled text") for _ in range(resamples)]
    text = _amounts(folds, chosen, task.scores.provenance.num_scored // count, generator)
    enough = next((amount.samples for amount in text if amount.excess <= ENOUGH), 0)
    return Stability(
        model=task.profile.name,
        data=task.scores.provenance.data,
        loss_unit=task.scores.loss_unit,
        encoder_bytes=int(plan.solution.usage["encoder_bytes"]),
        resamples=resamples,
        folds=count,
        samples_per_fold=task.scores.provenance.num_scored // count,
        items=tuple(sorted(_items(task, own, draws), key=lambda item: (item.kept, item.module))),
        regret=float(np.mean([loss_of(task.value, draw) for draw in draws]) / loss_of(task.value, own)) - 1,
        text=text,
        enough=enough if enough < text[-1].samples else None,
    )


def write_stability(found: Stability, path: str | Path) -> None:
    """Write `stability.json`, whole or not at all."""
    write_text(path, found.model_dump_json(by_alias=True, indent=1) + "\n")


def read_stability(path: str | Path) -> Stability:
    """Read `stability.json`.

    Raises:
        InputFileError: missing, malformed, or of another kind.
    """
    return read_document(path, Stability, SCHEMA)


def _items(task: PlanningTask, own: NDArray[np.int_], draws: list[NDArray[np.int_]]) -> list[ChoiceStability]:
    found = []
    for index, item in enumerate(task.items):
        taken = [task.choices[int(draw[index])] for draw in draws]
        mine = task.choices[int(own[index])]
        rivals = Counter(c.name for c in taken if c != mine).most_common()
        found.append(
            ChoiceStability(
                module=item.module,
                choice=mine.name,
                kept=sum(c == mine for c in taken) / len(taken),
                kept_bits=sum(c.bits == mine.bits for c in taken) / len(taken),
                rivals=tuple((name, times / len(taken)) for name, times in rivals),
            )
        )
    return found


def _amounts(
    folds: NDArray[np.float64],
    chosen: Callable[[NDArray[np.float64], str], NDArray[np.int_]],
    samples_per_fold: int,
    generator: np.random.Generator,
) -> tuple[TextAmount, ...]:
    """Leave each part out in turn; add the others one by one, in random order, and judge on what was left out."""
    count = len(folds)
    losses = np.empty((count, count - 1))
    for out in range(count):
        order = generator.permutation([k for k in range(count) if k != out])
        for used in range(1, count):
            losses[out, used - 1] = loss_of(
                folds[out], chosen(folds[order[:used]].mean(0), f"{used} parts of the text")
            )
    found = []
    for used in range(1, count):
        pair = losses[:, used - 1], losses[:, -1]
        without = [np.delete(pair[0], k).sum() / np.delete(pair[1], k).sum() for k in range(count)]  # the jackknife
        found.append(
            TextAmount(
                samples=used * samples_per_fold,
                loss=float(pair[0].mean()),
                excess=float(pair[0].sum() / pair[1].sum()),
                std_error=float(((count - 1) * np.var(without)) ** 0.5),
            )
        )
    return tuple(found)
