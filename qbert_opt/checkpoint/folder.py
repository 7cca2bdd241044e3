"""Write and read the quantized folder.

    model.safetensors   per matrix `<module>.codes` (packed) and its ranges; tables likewise; all else in fp16
    allocation.json     the plan, with the hash of the model it belongs to
    config.json         the model's, with `quantization_config`: format, hashes of all files, how it was checked
    tokenizer files

Only safetensors and JSON: nothing in the folder can run code when it is opened.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig

from ..errors import InputFileError
from ..models.loading import (
    AUTO_CLASSES,
    LoadedModel,
    build_model,
    check_finite,
    config_kind,
    load_tokenizer,
    quiet_transformers,
    refusing,
    weights_sha256,
)
from ..quantization.activation_quant import with_rounded_inputs
from ..quantization.calibration import MatrixQuantizer, quantize_table
from ..quantization.methods import QuantizedMatrix
from ..runtime.files import atomic_folder, file_sha256
from ..runtime.progress import Progress, silent
from ..runtime.provenance import code_version
from ..spec.allocation import Allocation, PlannedMatrix, PlannedTable, read_allocation, write_allocation
from ..spec.choices import Layout
from .packed_modules import quantized_parts
from .record import CONFIG, FORMAT, FolderRecord, ReadBack, read_record, write_record
from .stored_tensors import PARTS, part_shapes, restored, stored_parts
from .streamed_file import Shapes, StreamedFile
from .written import WEIGHTS, WrittenModel, check_written, measure_folder

PLAN = "allocation.json"


@dataclass(frozen=True, slots=True)
class StoredMatrix:
    """A matrix or table as its file holds it."""

    module: str
    quantized: QuantizedMatrix


def write_quantized(
    loaded: LoadedModel,
    allocation: Allocation,
    quantizer: MatrixQuantizer,
    output: str | Path,
    *,
    answer: Callable[[LoadedModel], ReadBack | None] | None = None,
    progress: Progress = silent,
) -> WrittenModel:
    """Quantize a model by its plan and write the folder, whole or not at all; matrices are in memory one at a time.

    Before the folder gets its name it is read back: bytes are those planned, tensors those that the quantizer gave, and
    the model is opened from it with packed weights.

    Args:
        loaded: the model that the plan was made for.
        allocation: the plan.
        quantizer: of the plan's method.
        output: folder to write.
        answer: asks the model that was read back; what it finds is kept in the folder.
        progress: called with matrices done, matrices in all, and what goes on.

    Raises:
        InputFileError: the plan belongs to another model, or what was written answers with NaN.
        RuntimeError: what is on disk is not what was planned or handed over (never left on disk).
    """
    check_belongs(allocation, loaded)
    by_module = {m.module: m for m in allocation.profile.matrices}
    total = len(allocation.matrices)
    metadata = {"format": FORMAT, "model_sha256": loaded.sha256}
    with atomic_folder(output) as folder:
        with StreamedFile(folder / WEIGHTS, _shapes(loaded.model, allocation), metadata) as file:
            for index, planned in enumerate(allocation.matrices):
                progress(index, total, planned.module)
                [quantized] = quantizer.quantize(by_module[planned.module], [planned.choice])
                _write_parts(file, planned.module, quantized)
            for table in allocation.tables:
                progress(total, total, table.module)
                [quantized] = quantize_table(loaded.model, table.module, [table.choice])
                _write_parts(file, table.module, quantized)
            for name, parameter in _others(loaded.model, allocation):
                file.write(name, _halved(name, parameter))
        progress(total, total, "reading back")
        write_allocation(allocation, folder / PLAN)
        loaded.tokenizer.save_pretrained(folder)
        written = measure_folder(folder, allocation)
        check_written(written, allocation, file.digests)
        hashes = {part.name: file_sha256(part) for part in sorted(folder.iterdir()) if part.name != CONFIG}
        record = FolderRecord(version=code_version(), plan=PLAN, files=hashes)
        plain = not hasattr(loaded.model, "config")  # a plain module: nothing says how to build it
        config = None if plain else loaded.model.config.to_dict()
        write_record(record, folder, config)
        if answer is not None:
            opened = load_quantized(folder, into=loaded)[0] if plain else open_packed(folder)
            record = record.model_copy(update={"read_back": answer(opened)})
            write_record(record, folder, config)
    return replace(written, folder=Path(output), read_back=record.read_back)


def open_packed(folder: str | Path) -> LoadedModel:
    """Open a quantized folder through transformers: weights stay packed, and a matrix is unpacked while it is used.

    Raises:
        InputFileError: a part is missing, differs from what was written, or does not match the plan.
    """
    from . import hub  # noqa: F401  (its import tells transformers of us)

    root = Path(folder)
    allocation = read_allocation(root / PLAN)
    quiet_transformers()
    with refusing(root):
        config = AutoConfig.from_pretrained(root, local_files_only=True)
        model, found = AUTO_CLASSES[config_kind(config, str(root))].from_pretrained(
            root, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    wrong = sorted([*found["missing_keys"], *found["unexpected_keys"]])
    if wrong:
        raise InputFileError(f"{root / WEIGHTS}: tensor {wrong[0]} is missing or unknown. Quantize anew.")
    return LoadedModel(str(folder), model.eval(), load_tokenizer(root, config), allocation.profile.sha256)


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
    read_record(root)
    allocation = read_allocation(root / PLAN)
    if into is not None:
        check_belongs(allocation, into)
        shell = replace(into, name=str(folder), model=copy.deepcopy(into.model))
    else:
        shell = _empty_model(root)
    model = shell.model
    state: dict[str, torch.Tensor] = {}
    shapes = {name: parameter.shape for name, parameter in model.named_parameters(remove_duplicate=False)}
    try:
        with safe_open(root / WEIGHTS, framework="pt") as file:
            names = set(file.keys())
            for planned in allocation.matrices:
                found = _restore(file, names, planned, planned.layout).dequantize()
                state[f"{planned.module}.weight"] = _shaped(found, shapes.get(f"{planned.module}.weight"))
            for table in allocation.tables:
                found = _restore(file, names, table, table.layout).dequantize()
                state[f"{table.module}.weight"] = _shaped(found, shapes.get(f"{table.module}.weight"))
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


def _shapes(model: nn.Module, allocation: Allocation) -> Shapes:
    """Shape and type of every tensor of the file."""
    shapes = {
        f"{planned.module}.{part}": found
        for planned in quantized_parts(allocation)
        for part, found in part_shapes(planned.layout, planned.rows, planned.columns).items()
    }
    return shapes | {name: (tuple(p.shape), torch.float16) for name, p in _others(model, allocation)}


def _write_parts(file: StreamedFile, module: str, quantized: QuantizedMatrix) -> None:
    for part, tensor in stored_parts(quantized).items():
        file.write(f"{module}.{part}", tensor)


def _shaped(matrix: torch.Tensor, shape: torch.Size | None) -> torch.Tensor:
    """Give a convolution's matrix the shape of its weight; what does not fit stays, and is refused at loading."""
    return matrix if shape is None or shape.numel() != matrix.numel() else matrix.view(shape)


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


def _others(model: nn.Module, allocation: Allocation) -> Iterator[tuple[str, nn.Parameter]]:
    """Biases, LayerNorm and head: what is stored in fp16."""
    priced = {f"{planned.module}.weight" for planned in quantized_parts(allocation)}
    return ((name, parameter) for name, parameter in model.named_parameters() if name not in priced)


def _halved(name: str, parameter: nn.Parameter) -> torch.Tensor:
    half = parameter.detach().half()
    if not torch.isfinite(half).all():
        raise InputFileError(f"{name}: holds values beyond fp16's range (65504). Scale the model first.")
    return half
