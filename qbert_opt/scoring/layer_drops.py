"""The cost of leaving encoder layers out: the loss of the float model without them, measured, not extrapolated.

Removing a layer is not a small change, so the metrics' second-order estimates do not apply. Sets of layers are measured
as a whole, because the losses of single layers do not add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

from ..data.texts import LabeledTexts
from ..errors import UsageError
from ..evaluation.evaluate import evaluation_batches
from ..models.depth import without_layers
from ..models.layers import largest_module_list
from ..models.loading import LoadedModel
from ..models.outputs import collect
from ..models.structure import profile_model
from ..runtime.progress import Progress, silent
from ..spec.planned import DroppedLayers
from ..spec.profiles import ModelProfile
from .mean_loss import mean_loss


@dataclass(frozen=True, slots=True)
class Shortened:
    """A model without some of its layers.

    Attributes:
        dropped: the layers that it lacks, with their loss.
        profile: of the shorter model.
    """

    dropped: DroppedLayers
    profile: ModelProfile


def layer_drops(
    loaded: LoadedModel, texts: LabeledTexts, most: int, *, progress: Progress = silent
) -> tuple[Shortened, ...]:
    """Measure the float model without each set of at most `most` layers.

    Args:
        loaded: the float model.
        texts: the scoring texts.
        most: the most layers to leave out; fewer than the model has.
        progress: called with sets measured, number of sets, and the current set.

    Raises:
        UsageError: the model has no more layers than `most`, or cannot do without one.
    """
    count = len(largest_module_list(loaded.model))
    if not 1 <= most < count:
        raise UsageError(f"`allow_drop` {most}: {loaded.name} has {count} layers; give 1 to {count - 1}.")
    batches = evaluation_batches(loaded, texts)
    truth = collect(loaded.head, loaded.model, batches)
    sets = [layers for size in range(1, most + 1) for layers in combinations(range(count), size)]
    found = []
    for number, layers in enumerate(sets):
        progress(number, len(sets), f"without {'layer' if len(layers) == 1 else 'layers'} {shown_layers(layers)}")
        shorter = without_layers(loaded, layers)
        values = collect(loaded.head, shorter.model, batches).values
        loss, error = mean_loss(loaded.head, truth, values)
        dropped = DroppedLayers(layers=layers, num_layers=count, predicted_loss=loss, std_error=error)
        found.append(Shortened(dropped, profile_model(shorter)))
    return tuple(found)


def shown_layers(layers: tuple[int, ...]) -> str:
    """Return the numbers of layers as reports have them, from 1.

    Args:
        layers: numbers from 0.
    """
    return ", ".join(str(number + 1) for number in layers)
