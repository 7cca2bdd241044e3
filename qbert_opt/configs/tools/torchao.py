"""torchao: an `FqnToConfig` of weight-only integer configs, in the JSON of `torchao.core.config.config_to_dict`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from ...spec.allocation import Allocation
from ...spec.planned import PlannedMatrix
from ...spec.profiles import ModelProfile
from ..offers import Carried, Offer, ranges

TITLE = "torchao"
SUFFIXES = (".json",)
DECODERS = True
ROUNDING = "to the nearest code of a min-max range"
NOTES = (
    "Load: quantize_(model, config_from_dict(json.loads(text)), filter_fn=None). On a CPU, codes are kept in int8.",
)


def offers(matrix: PlannedMatrix) -> Iterable[Offer]:
    """2 to 8 bits, one range per row or per group of inputs, with or without an 8-bit zero point."""
    return ranges(
        matrix, range(2, 9), rows=("rows:each",), group_bits=lambda bits, form: 16 if form == "symmetric" else 24
    )


def write(plan: Allocation, carried: Sequence[Carried], suffix: str) -> str:
    """Write one config per module name."""
    configs = {item.matrix.module: _config(item.offer) for item in carried}
    return json.dumps(_typed("FqnToConfig", {"fqn_to_config": configs}, version=1), indent=1) + "\n"


def read(content: Any, profile: ModelProfile, suffix: str) -> dict[str, Offer]:
    """Read `IntxWeightOnlyConfig`s; other configs are an error."""
    offers = {}
    for module, config in content["_data"]["fqn_to_config"].items():
        if config["_type"] != "IntxWeightOnlyConfig":
            raise ValueError(f"{module}: {config['_type']} is no IntxWeightOnlyConfig")
        data = config["_data"]
        granularity = data["granularity"]
        per_group = granularity["_type"] == "PerGroup"
        grouping = f"columns:{granularity['_data']['group_size']}" if per_group else "rows:each"
        bits = int(data["weight_dtype"]["_data"].removeprefix("int"))
        symmetric = data["mapping_type"]["_data"] == "SYMMETRIC"
        offers[module] = Offer(bits, grouping, *(("symmetric", 16) if symmetric else ("zero-point", 24)))
    return offers


def _config(offer: Offer) -> dict[str, Any]:
    axis, _, size = offer.grouping.partition(":")
    granularity = (
        _typed("PerGroup", {"group_size": int(size)}, version=1)
        if axis == "columns"
        else _typed("PerAxis", {"axis": 0}, version=1)
    )
    data = {
        "weight_dtype": _typed("torch.dtype", f"int{offer.bits}"),
        "granularity": granularity,
        "mapping_type": _typed("MappingType", "SYMMETRIC" if offer.form == "symmetric" else "ASYMMETRIC"),
        "scale_dtype": _typed("torch.dtype", "float16"),
        "intx_packing_format": _typed("IntxPackingFormat", "UNPACKED_TO_INT8"),
        "intx_choose_qparams_algorithm": _typed("IntxChooseQParamsAlgorithm", "AFFINE"),
    }
    return _typed("IntxWeightOnlyConfig", data, version=2)


def _typed(name: str, data: object, *, version: int | None = None) -> dict[str, Any]:
    return {"_type": name, **({} if version is None else {"_version": version}), "_data": data}
