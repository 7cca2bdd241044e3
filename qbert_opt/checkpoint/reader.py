"""Open a quantized folder: as packed modules, as float weights, or matrix by matrix.

    model.safetensors   packed codes `<module>.weight` and ranges of each matrix and table; everything else in fp16
    allocation.json     the plan, with the hash of the model it belongs to
    config.json         the model's, with `quantization_config`: format, hashes of all files, results of checks
    tokenizer files

All files are safetensors, JSON or text: opening the folder cannot run code.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig

from ..errors import InputFileError
from ..models.layers import as_weight, matrix_of
from ..models.loading import (
    AUTO_CLASSES,
    FLOAT32_BYTES,
    LoadedModel,
    build_model,
    check_finite,
    config_kind,
    load_tokenizer,
    quiet_transformers,
    refusing,
    unfilled_model,
    weights_sha256,
    written_config,
)
from ..models.pages import Pages, Paging
from ..models.paging import page
from ..models.probe import probe
from ..models.sentence_embeddings import embedding_fields, read_sentence_embedding
from ..quantization.activation_quant import with_rounded_inputs
from ..quantization.quantized_matrix import QuantizedMatrix, StoredMatrix, row_parts
from ..spec.allocation import Allocation, read_allocation
from ..spec.planned import PlannedMatrix, PlannedTable
from .packed_modules import quantized_parts
from .record import CONFIG, PLAN, REMEDY, WEIGHTS, check_belongs, parse_record, read_record
from .stored_tensors import CODES, part_shapes, restored

ROWS_AT_A_TIME = 1 << 12  # of a matrix that is dequantized to disk


def open_packed(folder: str | Path) -> LoadedModel:
    """Open a quantized folder through transformers; weights stay packed and are unpacked in each call.

    Args:
        folder: as `quantize` wrote it.

    Raises:
        InputFileError: a part is missing, differs from what was written, or does not match the plan.
    """
    from .hub import register

    register()
    root = Path(folder)
    allocation = read_allocation(root / PLAN)
    quiet_transformers()
    with refusing(root):
        config = AutoConfig.from_pretrained(root, local_files_only=True)
        model, report = AUTO_CLASSES[config_kind(config, str(root))].from_pretrained(
            root, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    embedding = read_sentence_embedding(root)
    if embedding is not None:
        model.config.sentence_embedding = embedding_fields(embedding)
    wrong = sorted([*report["missing_keys"], *report["unexpected_keys"]])
    if wrong:
        raise InputFileError(f"{root / WEIGHTS}: tensor {wrong[0]} is missing or unknown. {REMEDY}")
    check_finite(model, str(folder))
    loaded = LoadedModel(str(folder), model.eval(), load_tokenizer(root, config), allocation.profile.sha256)
    probe(loaded.model, loaded.tokenizer, loaded.head, loaded.name)
    return loaded


def load_quantized(
    folder: str | Path,
    *,
    into: LoadedModel | None = None,
    round_inputs: bool = True,
    paging: Paging | None = None,
) -> tuple[LoadedModel, Allocation]:
    """Load a quantized folder as a torch model with dequantized float32 weights.

    Args:
        folder: what `write_checkpoint` wrote.
        into: for a plain module, which cannot be rebuilt from its folder: the model that was quantized. A copy of it
            gets the weights.
        round_inputs: whether to apply the plan's activation quantization.
        paging: whether the weights stay on disk; never if None, and never of a plain module.

    Returns:
        The model, with the hash of the dequantized weights, and its plan.

    Warns:
        OlderFolderWarning: the folder is of an older format.

    Raises:
        InputFileError: a part is missing, truncated, or does not match the plan.
    """
    root = Path(folder)
    if not (root / PLAN).is_file():
        raise InputFileError(f"{folder}: is no quantized folder: it has no {PLAN}. Make one with 'qbert-opt quantize'.")
    record = read_record(root)
    allocation = read_allocation(root / record.plan)
    pages = None
    if into is not None:
        check_belongs(allocation, into)
        shell = replace(into, name=str(folder), model=copy.deepcopy(into.model))
    else:
        pages = _pages(allocation, str(folder), paging)
        shell = _empty_model(root, paged=pages is not None)
    model = shell.model
    state: dict[str, torch.Tensor] = {}
    try:
        with safe_open(root / WEIGHTS, framework="pt") as file:
            names = set(file.keys())
            for name in names - _packed_names(allocation, record.codes_name):
                tensor = file.get_tensor(name)
                state[name] = tensor.float() if tensor.is_floating_point() else tensor
        for planned in quantized_parts(allocation):
            with safe_open(root / WEIGHTS, framework="pt") as file:  # again, which gives back the pages that were read
                weight = _restore(file, names, planned, record.codes_name)
                matrix = weight.dequantize() if pages is None else _on_disk(weight, pages)
            state[f"{planned.module}.weight"] = _as_stored(model, planned, matrix)
    except (SafetensorError, OSError) as error:
        raise InputFileError(f"{root / WEIGHTS}: cannot be read: {str(error).splitlines()[0]}") from None
    with refusing(root):
        absent, unexpected = model.load_state_dict(state, strict=False, assign=pages is not None)
        if pages is not None:
            model.tie_weights()
            page(model, pages)
    tied = dict(model.named_parameters(remove_duplicate=False))
    filled = {id(tied[name]) for name in state if name in tied}
    missing = [name for name in absent if id(tied.get(name)) not in filled and (into is None or name in tied)]
    if missing or unexpected:
        name = (missing or unexpected)[0]
        raise InputFileError(
            f"{root / WEIGHTS}: tensor {name} is {'missing' if missing else 'unknown'}. Quantize the model again."
        )
    check_finite(model, str(folder))
    if round_inputs:
        with_rounded_inputs(model, allocation.activations)
    model.eval()
    if into is None:
        probe(model, shell.tokenizer, shell.head, shell.name)
    return replace(shell, model=model, sha256=weights_sha256(model)), allocation


def _pages(allocation: Allocation, name: str, paging: Paging | None) -> Pages | None:
    """Return the pages of a plan's model, if it is to be paged."""
    elements = sum(part.rows * part.columns for part in quantized_parts(allocation))
    applies = paging is not None and paging.applies(FLOAT32_BYTES * elements, name)
    return Pages(paging.folder) if paging is not None and applies else None


def _on_disk(matrix: QuantizedMatrix, pages: Pages) -> torch.Tensor:
    """Dequantize a matrix into mapped memory, a few rows at a time."""
    weight = pages.empty_weight(matrix.codes.shape)
    start = 0
    for part in row_parts(matrix, ROWS_AT_A_TIME):
        weight[start : start + len(part.codes)] = part.dequantize()
        start += len(part.codes)
        pages.release()
    return weight


def _empty_model(root: Path, *, paged: bool = False) -> LoadedModel:
    """Build the model of a folder's config, with random weights, or with none yet."""
    if not (root / CONFIG).is_file():
        raise InputFileError(
            f"{root}: cannot be loaded as a model: it has no {CONFIG}. For a plain module, pass it as argument into; "
            "otherwise quantize the model again."
        )
    config = written_config(root)  # without the packing: the loaded model has float weights
    model = unfilled_model(config, str(root)) if paged else build_model(config, str(root))
    return LoadedModel(str(root), model, load_tokenizer(root, config), "")


def read_matrices(folder: str | Path, allocation: Allocation) -> Iterator[StoredMatrix]:
    """Read the stored matrices and tables of a quantized folder, one at a time.

    Args:
        folder: as `quantize` wrote it.
        allocation: the plan in that folder.

    Raises:
        InputFileError: the file is missing, truncated, or does not match the plan.
    """
    path, codes_name = Path(folder) / WEIGHTS, parse_record(Path(folder))[0].codes_name
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            for planned in quantized_parts(allocation):
                yield StoredMatrix(planned.module, _restore(file, names, planned, codes_name))
    except (SafetensorError, OSError) as error:
        raise InputFileError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None


def is_quantized(folder: str | Path) -> bool:
    """Return whether a folder contains a model quantized by this project.

    Args:
        folder: need not exist.
    """
    return (Path(folder) / PLAN).is_file()


def folder_bytes(folder: str | Path) -> int:
    """Return the bytes of a model folder's weight files.

    Args:
        folder: with safetensors files; other files are not counted.
    """
    return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))


def _packed_names(allocation: Allocation, codes_name: str) -> set[str]:
    """Return the names of all tensors of a plan's matrices and tables in the file."""
    return {
        _tensor_name(planned.module, part, codes_name)
        for planned in quantized_parts(allocation)
        for part in part_shapes(planned.layout, planned.rows, planned.columns)
    }


def _tensor_name(module: str, part: str, codes_name: str) -> str:
    return f"{module}.{codes_name if part == CODES else part}"


def _as_stored(model: nn.Module, planned: PlannedMatrix | PlannedTable, matrix: torch.Tensor) -> torch.Tensor:
    """View a matrix as its layer stores it; a layer of another shape, or none, is left for loading to refuse."""
    layer = dict(model.named_modules()).get(planned.module)
    fits = layer is not None and hasattr(layer, "weight") and matrix_of(layer).shape == matrix.shape
    return as_weight(layer, matrix) if fits and layer is not None else matrix


def _restore(file: Any, names: set[str], planned: PlannedMatrix | PlannedTable, codes_name: str) -> QuantizedMatrix:
    parts = {}
    for part, (shape, dtype) in part_shapes(planned.layout, planned.rows, planned.columns).items():
        name = _tensor_name(planned.module, part, codes_name)
        if name not in names:
            raise InputFileError(f"{WEIGHTS}: tensor {name} is missing, but the plan has it. {REMEDY}")
        if tuple(file.get_slice(name).get_shape()) != shape:
            raise InputFileError(f"{WEIGHTS}: tensor {name} has another shape than the plan's {shape}. {REMEDY}")
        parts[part] = file.get_tensor(name)
        if parts[part].dtype != dtype:
            raise InputFileError(f"{WEIGHTS}: tensor {name} has another type than the plan's. {REMEDY}")
    try:
        return restored(planned.layout, planned.rows, planned.columns, parts)
    except ValueError as error:
        raise InputFileError(
            f"{WEIGHTS}: {_tensor_name(planned.module, CODES, codes_name)}: {error}. {REMEDY}"
        ) from None
