"""Write and read the quantized folder.

    model.safetensors   per matrix `<module>.codes` (packed) and its ranges; tables likewise; all else in fp16
    allocation.json     the plan, with the hash of the model it belongs to
    config.json, tokenizer files

Only safetensors and JSON: nothing in the folder can run code when it is opened.
"""

from __future__ import annotations

import copy
import errno
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig

from ..allocation import Allocation, PlannedMatrix, PlannedTable, read_allocation, write_allocation
from ..calibration import MatrixQuantizer, quantize_table
from ..choices import Layout
from ..errors import InputFileError
from ..files import atomic_folder
from ..models.loading import (
    LoadedModel,
    build_model,
    check_finite,
    load_tokenizer,
    quiet_transformers,
    refusing,
    weights_sha256,
)
from ..quantizers import QuantizedMatrix
from ..rounding import with_rounded_inputs
from .stored import PARTS, part_shapes, restored, stored_parts

WEIGHTS = "model.safetensors"
PLAN = "allocation.json"
CONFIG = "config.json"
FORMAT = "qbert-opt/model@1"


@dataclass(frozen=True, slots=True)
class StoredMatrix:
    """A matrix or table as its file holds it."""

    module: str
    quantized: QuantizedMatrix


@dataclass(frozen=True, slots=True)
class WrittenModel:
    """What is on disk: `tensor_bytes` of payload, `header_bytes` that say where each tensor lies."""

    folder: Path
    encoder_bytes: int
    tensor_bytes: int
    header_bytes: int


def write_quantized(
    loaded: LoadedModel,
    allocation: Allocation,
    quantizer: MatrixQuantizer,
    output: str | Path,
    *,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> WrittenModel:
    """Quantize a model by its plan and write the folder, whole or not at all.

    Raises:
        InputFileError: the plan belongs to another model.
        RuntimeError: bytes on disk differ from the plan's (our bug, never left on disk).
    """
    check_belongs(allocation, loaded)
    tensors: dict[str, torch.Tensor] = {}
    by_module = {m.module: m for m in allocation.profile.matrices}
    for index, planned in enumerate(allocation.matrices):
        progress(index, len(allocation.matrices), planned.module)
        [quantized] = quantizer.quantize(by_module[planned.module], [planned.choice])
        tensors |= _stored(planned.module, quantized)
    for table in allocation.tables:
        [quantized] = quantize_table(loaded.model, table.module, [table.choice])
        tensors |= _stored(table.module, quantized)
    tensors |= _other_tensors(loaded.model, allocation)
    with atomic_folder(output) as folder:
        _save(tensors, folder / WEIGHTS, loaded.sha256)
        write_allocation(allocation, folder / PLAN)
        loaded.tokenizer.save_pretrained(folder)
        _write_config(loaded, folder)
        written = measure_folder(folder, allocation)
        _check_bytes(written, allocation)
    return WrittenModel(Path(output), written.encoder_bytes, written.tensor_bytes, written.header_bytes)


def load_quantized(
    folder: str | Path, *, into: LoadedModel | None = None, round_inputs: bool = True
) -> tuple[LoadedModel, Allocation]:
    """Load a quantized folder as a torch model with dequantized float32 weights.

    Args:
        folder: what `write_quantized` wrote.
        into: the model that was quantized, for a plain module, whose folder cannot say how to build it; a copy of it
            gets the weights.
        round_inputs: whether matrices round their inputs where the plan says so.

    Raises:
        InputFileError: a part is missing, truncated, or does not match the plan.
    """
    root = Path(folder)
    if not (root / PLAN).is_file():
        raise InputFileError(f"{folder}: is no quantized folder: it has no {PLAN}. Make one with 'qbert-opt quantize'.")
    allocation = read_allocation(root / PLAN)
    if into is not None:
        check_belongs(allocation, into)
        shell = replace(into, name=str(folder), model=copy.deepcopy(into.model))
    else:
        shell = _empty_model(root)
    model = shell.model
    state: dict[str, torch.Tensor] = {}
    try:
        with safe_open(root / WEIGHTS, framework="pt") as file:
            names = set(file.keys())
            for planned in allocation.matrices:
                state[f"{planned.module}.weight"] = _restore(file, names, planned, planned.layout).dequantize()
            for table in allocation.tables:
                state[f"{table.module}.weight"] = _restore(file, names, table, table.layout).dequantize()
            for name in names:
                if not name.endswith(tuple(f".{part}" for part in PARTS)):
                    tensor = file.get_tensor(name)
                    state[name] = tensor.float() if tensor.is_floating_point() else tensor
    except (SafetensorError, OSError) as error:
        raise InputFileError(f"{root / WEIGHTS}: cannot be read: {str(error).splitlines()[0]}") from None
    with refusing(root):
        absent, unexpected = model.load_state_dict(state, strict=False)
    tied = dict(model.named_parameters(remove_duplicate=False))
    filled = {id(tied[name]) for name in state if name in tied}
    missing = [name for name in absent if id(tied.get(name)) not in filled and (into is None or name in tied)]
    if missing or unexpected:
        name = (missing or unexpected)[0]
        raise InputFileError(
            f"{root / WEIGHTS}: tensor {name} is {'missing' if missing else 'unknown'}. Quantize anew."
        )
    check_finite(model, str(folder))
    if round_inputs:
        with_rounded_inputs(model, allocation.activations)
    return replace(shell, model=model.eval(), sha256=weights_sha256(model)), allocation


def _empty_model(root: Path) -> LoadedModel:
    """Build the model that a folder's config names, its weights still to be filled in."""
    if not (root / CONFIG).is_file():
        raise InputFileError(
            f"{root}: cannot be loaded as a model: it has no {CONFIG}. What was made from a plain module is loaded "
            "'into' it; else quantize anew."
        )
    quiet_transformers()
    with refusing(root):
        config = AutoConfig.from_pretrained(root, local_files_only=True)
        if hasattr(config, "quantization_config"):
            del config.quantization_config  # what is loaded holds float weights, and says so
    return LoadedModel(str(root), build_model(config, str(root)), load_tokenizer(root, config), "")


def read_matrices(folder: str | Path, allocation: Allocation) -> Iterator[StoredMatrix]:
    """Read the stored matrices and tables of a quantized folder, one at a time.

    Raises:
        InputFileError: the file is missing, truncated, or does not match the plan.
    """
    path = Path(folder) / WEIGHTS
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            for planned in allocation.matrices:
                yield StoredMatrix(planned.module, _restore(file, names, planned, planned.layout))
            for table in allocation.tables:
                yield StoredMatrix(table.module, _restore(file, names, table, table.layout))
    except (SafetensorError, OSError) as error:
        raise InputFileError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None


def is_quantized(folder: str | Path) -> bool:
    """Tell whether a folder holds a quantized model of this project."""
    return (Path(folder) / PLAN).is_file()


def folder_bytes(folder: str | Path) -> int:
    """Bytes of a model folder's weight files."""
    return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))


def check_belongs(allocation: Allocation, loaded: LoadedModel) -> None:
    """Refuse a plan that was made for another model.

    Raises:
        InputFileError: the hashes differ.
    """
    if allocation.profile.sha256 != loaded.sha256:
        raise InputFileError(
            f"{loaded.name}: its weights are not those the plan was made for ({allocation.profile.name}, "
            f"sha256 {allocation.profile.sha256[:12]}…; here {loaded.sha256[:12]}…). Score and solve this model first."
        )


def measure_folder(folder: Path, allocation: Allocation) -> WrittenModel:
    """Count the bytes of a written folder from the file itself."""
    path = folder / WEIGHTS
    with path.open("rb") as file:
        header_bytes = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_bytes - 8))
    sizes = {n: e["data_offsets"][1] - e["data_offsets"][0] for n, e in header.items() if n != "__metadata__"}
    encoder = sum(sizes.get(f"{m.module}.{part}", 0) for m in allocation.matrices for part in PARTS)
    return WrittenModel(folder, encoder, path.stat().st_size - header_bytes, header_bytes)


def _save(tensors: dict[str, torch.Tensor], path: Path, model_sha256: str) -> None:
    """Write the tensors; safetensors wraps the system's error in one of its own."""
    try:
        save_file(tensors, path, metadata={"format": FORMAT, "model_sha256": model_sha256})
    except SafetensorError as error:
        code = errno.ENOSPC if "No space left" in str(error) else errno.EIO
        raise OSError(code, str(error)) from None


def _check_bytes(written: WrittenModel, allocation: Allocation) -> None:
    planned = (allocation.encoder_bytes, allocation.total_bytes)
    found = (written.encoder_bytes, written.tensor_bytes)
    if planned != found:
        raise RuntimeError(f"planned (encoder, total) bytes {planned}, on disk {found}")


def _stored(module: str, quantized: QuantizedMatrix) -> dict[str, torch.Tensor]:
    return {f"{module}.{part}": tensor for part, tensor in stored_parts(quantized).items()}


def _restore(file: Any, names: set[str], planned: PlannedMatrix | PlannedTable, layout: Layout) -> QuantizedMatrix:
    found = {}
    for part, (shape, dtype) in part_shapes(layout, planned.rows, planned.columns).items():
        name = f"{planned.module}.{part}"
        if name not in names:
            raise InputFileError(f"{WEIGHTS}: tensor {name} is missing, and the plan has it. Quantize anew.")
        if tuple(file.get_slice(name).get_shape()) != shape:
            raise InputFileError(f"{WEIGHTS}: tensor {name} has another shape than the plan's {shape}. Quantize anew.")
        found[part] = file.get_tensor(name)
        if found[part].dtype != dtype:
            raise InputFileError(f"{WEIGHTS}: tensor {name} has another type than the plan's. Quantize anew.")
    return restored(layout, planned.rows, planned.columns, found)


def _other_tensors(model: nn.Module, allocation: Allocation) -> dict[str, torch.Tensor]:
    """Biases, LayerNorm and head in fp16."""
    searched = [m.module for m in allocation.matrices] + [t.module for t in allocation.tables]
    priced = {f"{module}.weight" for module in searched}
    tensors = {}
    for name, parameter in model.named_parameters():
        if name in priced:
            continue
        half = parameter.detach().half()
        if not torch.isfinite(half).all():
            raise InputFileError(f"{name}: holds values beyond fp16's range (65504). Scale the model first.")
        tensors[name] = half.contiguous()
    return tensors


def _write_config(loaded: LoadedModel, folder: Path) -> None:
    if not hasattr(loaded.model, "config"):  # a plain module: nothing says how to build it
        return
    config = loaded.model.config.to_dict()
    config["quantization_config"] = {"quant_method": "qbert-opt", "format": FORMAT, "plan": PLAN}
    (folder / CONFIG).write_text(json.dumps(config, indent=1, default=str) + "\n", encoding="utf-8")
