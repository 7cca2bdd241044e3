"""What the program needs from the hardware model: prices of options, and memory that does not depend on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..costs.decoding import with_tokens
from ..costs.engine_target import EngineTarget
from ..costs.functions import table_bytes
from ..costs.operations import model_graph
from ..costs.pricing import OptionTables, option_tables
from ..costs.workload import Workload
from ..spec.cache import cache_bytes
from ..spec.choices import Choice
from ..spec.profiles import ModelProfile, TableSpec
from .residency import with_energy

if TYPE_CHECKING:
    from hwmodels import Device


def priced_options(
    profile: ModelProfile,
    choices: Sequence[Choice],
    legal: NDArray[np.bool_],
    device: Device | None,
    workload: Workload,
    tables: Sequence[TableSpec],
    target: EngineTarget | None,
) -> OptionTables:
    """Price every option: each choice streamed and, on a device with a scratchpad, also resident.

    Args:
        profile: the model.
        choices: columns of `legal`.
        legal: bool [items, choices].
        device: the hardware; None prices bytes only.
        workload: sentences and tokens of one inference; of a decoder both phases are priced.
        tables: the embedding tables that are searched.
        target: the engine, or None.
    """
    prompt, *steps = [
        option_tables(profile, choices, legal, device, phase, tables, target) for phase in workload.phases
    ]
    if device is None:
        return prompt
    return with_energy(with_tokens(prompt, steps[0], device) if steps else prompt, device, len(choices))


def bytes_beside_weights(profile: ModelProfile, device: Device | None, workload: Workload, *, with_cache: bool) -> int:
    """Return the bytes of activations and of the tables of integer functions, in the phase that needs the most.

    Args:
        profile: the model.
        device: the hardware; without one nothing is counted.
        workload: sentences and tokens of one inference.
        with_cache: count a decoder's full cache too.
    """
    if device is None:
        return 0
    from hwmodels import peak_activation_bytes

    graphs = [model_graph(profile, None, phase) for phase in workload.phases]
    tokens = workload.batch_size * (workload.context or 0) if with_cache else 0
    most = max(peak_activation_bytes(graph, device) + table_bytes(graph) for graph in graphs)
    return most + cache_bytes(profile, tokens, workload.cache_bits, workload.batch_size)


def room_bytes(profile: ModelProfile, device: Device | None, workload: Workload) -> int:
    """Return the scratchpad bytes left for weights in every phase.

    Args:
        profile: the model.
        device: the hardware; without one there are none.
        workload: sentences and tokens of one inference.
    """
    if device is None:
        return 0
    from hwmodels import scratchpad_room_bytes

    return min(scratchpad_room_bytes(model_graph(profile, None, phase), device) for phase in workload.phases)
