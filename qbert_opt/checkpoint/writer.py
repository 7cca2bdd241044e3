"""Write the quantized folder from quantized matrices that the caller supplies one at a time.

The plan determines the names and sizes of all tensors, so the file's header is written first, and only one matrix is in
memory at a time. The folder is read back before it gets its final name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ..errors import InputFileError, UsageError
from ..models.loading import LoadedModel
from ..models.pages import Paging
from ..models.paging import pages_of
from ..models.sentence_embeddings import copy_companions
from ..quantization.quantized_matrix import QuantizedMatrix
from ..runtime.files import atomic_folder
from ..runtime.manifest import file_hashes
from ..runtime.progress import Progress, silent
from ..runtime.provenance import code_version
from ..spec.allocation import Allocation, write_allocation
from ..spec.planned import PlannedMatrix, PlannedTable
from .check_texts import CheckTexts, write_check_texts
from .packed_modules import quantized_parts
from .reader import load_quantized, open_packed
from .record import CONFIG, FORMAT, PLAN, WEIGHTS, FolderRecord, ReadBack, Training, check_belongs, write_record
from .stored_tensors import part_shapes, stored_parts
from .streamed_file import Shapes, StreamedFile
from .written import WrittenModel, check_written, measure_folder


def write_checkpoint(
    loaded: LoadedModel,
    plan: Allocation,
    matrices: Iterable[tuple[str, QuantizedMatrix]],
    output: str | Path,
    *,
    trained: Mapping[str, torch.Tensor] | None = None,
    training: Training | None = None,
    written_by: str | None = None,
    answer: Callable[[LoadedModel], ReadBack | None] | None = None,
    check_texts: CheckTexts | None = None,
    progress: Progress = silent,
) -> WrittenModel:
    """Write a quantized folder atomically.

    Before the folder gets its final name, it is read back: its size must equal the plan's, its tensors must equal those
    supplied, and the model is opened from it: with packed weights, or with float weights that are paged like its own.

    Args:
        loaded: the model that the plan was made for.
        plan: the choice of each matrix and table.
        matrices: module name and codes of every matrix of the plan, then of every table, in the plan's order. Consumed
            one at a time, so it may be a generator.
        output: folder to write.
        trained: tensors other than the matrices that training changed (LayerNorm, biases, head), by parameter name;
            they replace the model's own, with the same shapes.
        training: provenance of the training, recorded in the folder.
        written_by: quantizer that made the codes, recorded in the folder; None after training.
        answer: runs the model that was read back on a few texts; its result is recorded in the folder.
        check_texts: texts for checking exports of the folder, stored in it.
        progress: called with parts done, number of parts, and the current step.

    Returns:
        The written folder and its size.

    Raises:
        InputFileError: the plan belongs to another model, a tensor exceeds fp16, or `answer` raised it.
        UsageError: `matrices` does not match the plan, or `trained` has an unknown or quantized tensor.
        RuntimeError: the file differs from the plan or the supplied tensors (nothing is left on disk).
    """
    check_belongs(plan, loaded)
    planned = quantized_parts(plan)
    others = {name: _halved(name, tensor) for name, tensor in _others(loaded.model, plan, trained or {})}
    metadata = {"format": FORMAT, "model_sha256": loaded.sha256}
    with atomic_folder(output) as folder:
        with StreamedFile(folder / WEIGHTS, _shapes(planned, others), metadata) as file:
            source = iter(matrices)
            for index, part in enumerate(planned):
                progress(index, len(planned), part.module)
                _write_matrix(file, part, next(source, None))
            if (extra := next(source, None)) is not None:
                raise UsageError(f"matrices: {extra[0]} comes after the plan's last matrix or table.")
            for name, tensor in others.items():
                file.write(name, tensor)
        progress(len(planned), len(planned), "reading back")
        write_allocation(plan, folder / PLAN)
        if check_texts is not None:
            write_check_texts(check_texts, folder)
        loaded.tokenizer.save_pretrained(folder)
        if loaded.folder is not None:
            copy_companions(loaded.folder, folder)
        written = measure_folder(folder, plan)
        check_written(written, plan, file.digests)
        plain = not hasattr(loaded.model, "config")  # a plain module cannot be rebuilt from a config
        config = None if plain else loaded.model.config.to_dict()
        record = FolderRecord(
            version=code_version(),
            plan=PLAN,
            files=file_hashes(folder, CONFIG),
            written_by=written_by,
            trained=tuple(sorted(trained or ())),
            training=training,
        )
        write_record(record, folder, config)
        if answer is not None:
            record = record.model_copy(update={"read_back": answer(_opened(folder, loaded))})
            write_record(record, folder, config)
    return replace(written, folder=Path(output), written_by=written_by, read_back=record.read_back)


def _opened(folder: Path, loaded: LoadedModel) -> LoadedModel:
    """Open a folder that was just written: with packed weights, except for a plain module or a paged model."""
    if not hasattr(loaded.model, "config"):
        return load_quantized(folder, into=loaded)[0]
    pages = pages_of(loaded.model)
    return (
        open_packed(folder)
        if pages is None
        else load_quantized(folder, paging=Paging(pages.folder, True, told=True))[0]
    )


def _write_matrix(
    file: StreamedFile, planned: PlannedMatrix | PlannedTable, given: tuple[str, QuantizedMatrix] | None
) -> None:
    if given is None or given[0] != planned.module:
        raise UsageError(
            f"matrices: expected {planned.module}, found {'the end' if given is None else given[0]}. "
            "Give the plan's matrices, then its tables, in the plan's order."
        )
    quantized = given[1]
    if quantized.layout != planned.layout or tuple(quantized.codes.shape) != (planned.rows, planned.columns):
        raise UsageError(
            f"matrices: {planned.module} is {' x '.join(map(str, quantized.codes.shape))} in {quantized.layout}; the "
            f"plan has {planned.rows} x {planned.columns} in {planned.layout}."
        )
    for part, tensor in stored_parts(quantized).items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputFileError(f"{planned.module}: its {part} is beyond fp16's limit of 65504. Rescale the weights.")
        file.write(f"{planned.module}.{part}", tensor)


def _shapes(planned: Iterable[PlannedMatrix | PlannedTable], others: Mapping[str, torch.Tensor]) -> Shapes:
    """Return the shape and type of every tensor of the file."""
    shapes = {
        f"{part.module}.{name}": shape
        for part in planned
        for name, shape in part_shapes(part.layout, part.rows, part.columns).items()
    }
    return shapes | {name: (tuple(tensor.shape), torch.float16) for name, tensor in others.items()}


def _others(
    model: nn.Module, plan: Allocation, trained: Mapping[str, torch.Tensor]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Return the tensors stored in fp16 (biases, LayerNorm, head): the trained ones, else the model's own.

    Raises:
        UsageError: a trained tensor is not one of them, or has another shape.
    """
    quantized = {f"{part.module}.weight" for part in quantized_parts(plan)}
    own = {name: parameter for name, parameter in model.named_parameters() if name not in quantized}
    for name, tensor in trained.items():
        if name not in own:
            where = "comes with `matrices`" if name in quantized else "is no parameter of the model"
            raise UsageError(f"trained: {name} {where}. Legal: parameters that the plan does not quantize.")
        if tensor.shape != own[name].shape:
            raise UsageError(
                f"trained: {name} has shape {tuple(tensor.shape)}; the model's has {tuple(own[name].shape)}."
            )
    return ((name, trained.get(name, parameter)) for name, parameter in own.items())


def _halved(name: str, tensor: torch.Tensor) -> torch.Tensor:
    half = tensor.detach().cpu().half()
    if not torch.isfinite(half).all():
        raise InputFileError(f"{name}: holds values beyond fp16's limit of 65504. Rescale the weights.")
    return half
