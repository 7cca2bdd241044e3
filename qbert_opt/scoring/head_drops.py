"""The cost of leaving attention heads out: nested sets of heads, measured in the float model, not extrapolated.

The first half of the scoring text ranks the heads by the loss without each one alone, which determines the sets: the
cheapest heads first. The other half, which had no part in the ranking, measures the cost of each set, so that it is not
biased by the selection. A missing head returns its mean over the calibration text.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..data.texts import LabeledTexts
from ..errors import UsageError
from ..evaluation.evaluate import evaluation_batches
from ..models.fewer_heads import AttentionLayer, attention_layers, head_means, replaced, without_heads
from ..models.loading import LoadedModel, tokenized
from ..models.outputs import collect
from ..models.structure import profile_model
from ..quantization.calibration import BATCH_SIZE
from ..runtime.progress import Progress, silent
from ..spec.dropped import DroppedHeads
from ..spec.profiles import ModelProfile
from .mean_loss import mean_loss

NUM_SETS = 8  # that are measured and solved for, evenly spaced from 0 to the most heads
FEWEST_TEXTS = 4  # two that rank, and two that judge

HeadPlace = tuple[int, int]
"""A head's layer and number, from 0."""


@dataclass(frozen=True, slots=True)
class Narrowed:
    """A model without some of its attention heads.

    Attributes:
        dropped: the heads that it lacks, with their loss.
        profile: of the smaller model.
    """

    dropped: DroppedHeads
    profile: ModelProfile


def check_head_drops(loaded: LoadedModel, most: int) -> tuple[AttentionLayer, ...]:
    """Return the attention layers of a model, after checking that it can lose so many heads.

    Args:
        loaded: the float model.
        most: the most heads to leave out; every layer keeps one.

    Raises:
        UsageError: its attention does not allow it, or it has too few.
    """
    layers = attention_layers(loaded)
    total = sum(layer.heads for layer in layers)
    if not 1 <= most <= total - len(layers):
        raise UsageError(
            f"`allow_drop_heads` {most}: {loaded.name} has {total} attention heads in {len(layers)} layers, each of "
            f"which keeps one; give 1 to {total - len(layers)}."
        )
    return layers


def head_drops(
    loaded: LoadedModel, fit: LabeledTexts, scored: LabeledTexts, most: int, *, progress: Progress = silent
) -> tuple[Narrowed, ...]:
    """Measure the float model without nested sets of at most `most` attention heads.

    Args:
        loaded: the float model.
        fit: the calibration texts, for the means of the heads.
        scored: the scoring texts; the first half ranks, the second half judges.
        most: the most heads to leave out.
        progress: called with steps done, number of steps, and the current one.

    Returns:
        The sets, each of which contains the one before.

    Raises:
        UsageError: the model cannot do without so many heads, or there are too few texts.
    """
    layers = check_head_drops(loaded, most)
    if len(scored) < FEWEST_TEXTS or not len(fit):
        raise UsageError(
            f"`allow_drop_heads`: {len(scored)} scoring and {len(fit)} calibration texts; it needs at least "
            f"{FEWEST_TEXTS} and 1."
        )
    means = head_means(loaded, layers, tokenized(loaded, fit.texts, batch_size=BATCH_SIZE))
    sizes = set_sizes(most)
    half, steps = len(scored) // 2, len(means) + len(sizes)
    ranking = evaluation_batches(loaded, scored.take(range(half)))
    truth, alone = collect(loaded.head, loaded.model, ranking), dict[HeadPlace, float]()
    for place, mean in means.items():
        progress(len(alone), steps, f"without head {place[1] + 1} of layer {place[0] + 1}")
        with replaced(loaded, layers, {place: mean}):
            alone[place], _ = mean_loss(loaded.head, truth, collect(loaded.head, loaded.model, ranking).values)
    cheapest = cheapest_heads(alone, most)
    judging = evaluation_batches(loaded, scored.take(range(half, len(scored))))
    truth = collect(loaded.head, loaded.model, judging)
    found = []
    for number, size in enumerate(sizes):
        progress(len(means) + number, steps, f"without {size} heads")
        places = sorted(cheapest[:size])
        dropped = DroppedHeads(
            heads=tuple(tuple(head for of, head in places if of == layer) for layer in range(len(layers))),
            num_heads=layers[0].heads,
            means=tuple(means[place] for place in places),
            predicted_loss=0.0,
            std_error=0.0,
        )
        narrowed = without_heads(loaded, dropped, layers)
        values = collect(loaded.head, narrowed.model, judging).values
        loss, error = mean_loss(loaded.head, truth, values)
        measured = dropped.model_copy(update={"predicted_loss": loss, "std_error": error})
        found.append(Narrowed(measured, profile_model(narrowed)))
    return tuple(found)


def set_sizes(most: int) -> tuple[int, ...]:
    """Return the numbers of heads of the sets, ascending to the largest.

    Args:
        most: of the largest set.
    """
    return tuple(sorted({-(-most * number // NUM_SETS) for number in range(1, NUM_SETS + 1)}))


def cheapest_heads(alone: dict[HeadPlace, float], most: int) -> list[HeadPlace]:
    """Return the heads with the least loss alone, in that order; the last one of a layer is skipped.

    Args:
        alone: loss without each head alone.
        most: how many.
    """
    left = dict[int, int]()
    for layer, _ in alone:
        left[layer] = left.get(layer, 0) + 1
    chosen: list[HeadPlace] = []
    for place in sorted(alone, key=lambda one: (alone[one], one)):
        if len(chosen) < most and left[place[0]] > 1:
            chosen.append(place)
            left[place[0]] -= 1
    return chosen
