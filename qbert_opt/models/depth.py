"""The same model with fewer encoder layers."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from ..errors import UsageError
from .architectures import build_model
from .layers import largest_module_list
from .loading import LoadedModel, weights_sha256


def without_layers(loaded: LoadedModel, layers: Collection[int]) -> LoadedModel:
    """Return a model without some encoder layers; the input of a missing layer goes to the next layer that is kept.

    The kept layers are renumbered, so the result is an ordinary model of its class.

    Args:
        loaded: the model; not modified.
        layers: numbers of the layers to leave out, from 0; if empty, the model itself is returned.

    Raises:
        UsageError: a layer does not exist, no layer would be left, or the layers share weights or are not alike.
    """
    if not layers:
        return loaded
    blocks = largest_module_list(loaded.model)
    config: Any = getattr(loaded.model, "config", None)
    count = getattr(config, "num_hidden_layers", None)
    if count != len(blocks):
        raise UsageError(
            f"{loaded.name}: layers can be left out where the config counts each of them (num_hidden_layers); it "
            f"counts {count}, and the model stores {len(blocks)}."
        )
    kept = [number for number in range(count) if number not in layers]
    if not kept or len(kept) + len(layers) != count:
        raise UsageError(f"{loaded.name}: layers {sorted(layers)} left out of {count}; give some of 0 to {count - 1}.")
    shorter = copy.deepcopy(config)
    shorter.num_hidden_layers = len(kept)
    if getattr(config, "layer_types", None):  # local or global attention, by layer
        shorter.layer_types = [config.layer_types[number] for number in kept]
    model = build_model(shorter, loaded.name)
    places = {blocks[old]: blocks[new] for new, old in enumerate(kept)}
    state = {}
    for name, tensor in loaded.model.state_dict().items():
        block = next((block for block in blocks if name.startswith(f"{block}.")), None)
        if block in places:
            state[places[block] + name.removeprefix(block)] = tensor
        elif block is None:
            state[name] = tensor
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise UsageError(
            f"{loaded.name}: layers {sorted(layers)} cannot be left out, because layers are not alike: "
            f"{' '.join(str(error).split())[:200]}"
        ) from None
    return replace(loaded, model=model.eval(), sha256=weights_sha256(model))
