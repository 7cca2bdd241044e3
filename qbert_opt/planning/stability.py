"""How much a plan depends on the texts that happened to be scored, and how much text is enough.

The model is not run again: a score table contains the scores on a few equal parts of the scoring text. A bootstrap over
these parts (Efron 1979) shows which choices change. Plans made from more and more parts, each evaluated on a held-out
part, show how much text is enough.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from ..errors import NoPlanFoundError, UsageError
from ..runtime.files import read_document, write_text
from ..runtime.frozen import Amount, Count, Frozen, Share
from ..runtime.progress import Progress, silent
from .cross_fit import TIME_LIMIT_S, chosen_by, loss_of
from .program import PlanningTask
from .solving import Plan

SCHEMA = "qbert-opt/stability@1"
RELATIVE_GAP = 1e-6  # with a larger gap, plans could differ because of the search instead of the text
ENOUGH = 1.05  # ratio to the loss of plans from the most text


class _Finite(Frozen):
    """A value without infinite or undefined numbers."""

    model_config = ConfigDict(allow_inf_nan=False)


class ChoiceStability(_Finite):
    """How often plans from resampled text agree on one matrix or table.

    Attributes:
        module: the matrix or table.
        choice: its choice in the plan.
        kept: share of resamples with the same choice.
        kept_bits: share of resamples with the same bits.
        rivals: (other choice, share of resamples with it), most frequent first.
    """

    module: str
    choice: str
    kept: Share
    kept_bits: Share
    rivals: tuple[tuple[str, Share], ...]


class TextAmount(_Finite):
    """The held-out loss of plans from a given amount of text.

    Attributes:
        samples: number of texts that chose the plan.
        loss: predicted loss on a held-out part, mean over the held-out parts.
        excess: its ratio to the loss of plans from all other parts, on the same held-out parts.
        std_error: standard error of `excess`, by the jackknife.
    """

    samples: Count
    loss: Amount
    excess: Amount
    std_error: Amount


class Stability(_Finite):
    """How much a plan depends on the scoring text.

    Attributes:
        document_schema: kind and version of the document.
        model: name of the model.
        data: name of the text.
        loss_unit: unit of all losses.
        encoder_bytes: bytes of the plan's matrices.
        resamples: number of plans from resampled text.
        folds: number of parts that were resampled.
        samples_per_fold: texts in each part.
        items: each matrix and table, those that change most often first.
        regret: mean ratio of a resampled plan's predicted loss on all text to the plan's own, minus 1.
        text: plans from more and more text.
        enough: least number of texts whose plans lose at most 5 % more on held-out parts than plans from the most
            text; None if only the most text reaches that, so that more text would still help.
    """

    document_schema: str = Field(default=SCHEMA, alias="schema")
    model: str
    data: str
    loss_unit: str
    encoder_bytes: Count
    resamples: Count
    folds: Count
    samples_per_fold: Count
    items: tuple[ChoiceStability, ...]
    regret: float
    text: tuple[TextAmount, ...]
    enough: Count | None


def measure_stability(
    task: PlanningTask,
    plan: Plan,
    *,
    resamples: int,
    progress: Progress = silent,
) -> Stability:
    """Solve again with resampled text and with less text.

    Args:
        task: scores and limits.
        plan: the plan from all text.
        resamples: number of bootstrap resamples.
        progress: called with plans made, number of plans, and the current step.

    Raises:
        UsageError: the scores have no folds, because the metric is not a mean over samples or there are too few.
        NoPlanFoundError: no plan was found in time for one of the resamples.
    """
    folds = task.scores.item_folds()
    if not len(folds):
        raise UsageError(
            f"`stability`: {task.scores.metric} scores of {task.scores.provenance.num_scored} samples have no folds "
            "to resample. Use `metric` directional and at least 16 `num_scored`."
        )
    count = len(folds)
    total = resamples + count * (count - 1)
    done = 0

    def chosen(values: NDArray[np.float64], what: str) -> NDArray[np.int_]:
        nonlocal done
        choice = chosen_by(task, plan.problem, values, RELATIVE_GAP)
        if choice is None:
            raise NoPlanFoundError(f"`stability`: no plan from resampled text was found within {TIME_LIMIT_S:.0f} s.")
        done += 1
        progress(done, total, what)
        return choice

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


def write_stability(stability: Stability, path: str | Path) -> None:
    """Write `stability.json`, completely or not at all.

    Args:
        stability: what to write.
        path: of the file.
    """
    write_text(path, stability.model_dump_json(by_alias=True, indent=1) + "\n")


def read_stability(path: str | Path) -> Stability:
    """Read `stability.json`.

    Args:
        path: of the file.

    Raises:
        InputFileError: missing, malformed, or of another kind.
    """
    return read_document(path, Stability, SCHEMA)


def _items(task: PlanningTask, own: NDArray[np.int_], draws: list[NDArray[np.int_]]) -> list[ChoiceStability]:
    items = []
    for index, item in enumerate(task.items):
        resampled = [task.choices[int(draw[index])] for draw in draws]
        planned = task.choices[int(own[index])]
        rivals = Counter(c.name for c in resampled if c != planned).most_common()
        items.append(
            ChoiceStability(
                module=item.module,
                choice=planned.name,
                kept=sum(c == planned for c in resampled) / len(resampled),
                kept_bits=sum(c.bits == planned.bits for c in resampled) / len(resampled),
                rivals=tuple((name, times / len(resampled)) for name, times in rivals),
            )
        )
    return items


def _amounts(
    folds: NDArray[np.float64],
    chosen: Callable[[NDArray[np.float64], str], NDArray[np.int_]],
    samples_per_fold: int,
    generator: np.random.Generator,
) -> tuple[TextAmount, ...]:
    """Hold out each part in turn, add the others one by one in random order, and evaluate each plan on that part.

    Args:
        folds: scores on each part, float64 [folds, items, choices].
        chosen: solves for scores [items, choices], with a label for the progress.
        samples_per_fold: texts in each part.
        generator: draws the order of the parts.
    """
    count = len(folds)
    losses = np.empty((count, count - 1))
    for out in range(count):
        order = generator.permutation([k for k in range(count) if k != out])
        for used in range(1, count):
            losses[out, used - 1] = loss_of(
                folds[out], chosen(folds[order[:used]].mean(0), f"{used} parts of the text")
            )
    amounts = []
    for used in range(1, count):
        pair = losses[:, used - 1], losses[:, -1]
        without = [np.delete(pair[0], k).sum() / np.delete(pair[1], k).sum() for k in range(count)]  # the jackknife
        amounts.append(
            TextAmount(
                samples=used * samples_per_fold,
                loss=float(pair[0].mean()),
                excess=float(pair[0].sum() / pair[1].sum()),
                std_error=float(((count - 1) * np.var(without)) ** 0.5),
            )
        )
    return tuple(amounts)
