"""Sizes of a written folder, measured from the file and compared with the plan."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ..spec.allocation import Allocation
from .record import WEIGHTS, ReadBack
from .stored_tensors import PARTS
from .streamed_file import tensor_digests


@dataclass(frozen=True, slots=True)
class WrittenModel:
    """A quantized folder on disk.

    Attributes:
        folder: where.
        encoder_bytes: of the encoder's matrices.
        tensor_bytes: payload of the safetensors file.
        header_bytes: header of the safetensors file.
        written_by: the quantizer that made the codes.
        read_back: result of running the folder after it was written.
    """

    folder: Path
    encoder_bytes: int
    tensor_bytes: int
    header_bytes: int
    written_by: str | None = None
    read_back: ReadBack | None = None


def measure_folder(folder: Path, allocation: Allocation) -> WrittenModel:
    """Measure the bytes of a written folder from the file itself.

    Args:
        folder: a quantized folder.
        allocation: its plan, which determines the encoder's tensors.
    """
    path = folder / WEIGHTS
    with path.open("rb") as file:
        header_bytes = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_bytes - 8))
    sizes = {n: e["data_offsets"][1] - e["data_offsets"][0] for n, e in header.items() if n != "__metadata__"}
    encoder = sum(sizes.get(f"{m.module}.{part}", 0) for m in allocation.matrices for part in PARTS)
    return WrittenModel(folder, encoder, path.stat().st_size - header_bytes, header_bytes)


def check_written(written: WrittenModel, allocation: Allocation, digests: dict[str, str]) -> None:
    """Check that the file matches the plan and the supplied tensors.

    Args:
        written: measured from the file.
        allocation: the plan.
        digests: sha256 of each supplied tensor.

    Raises:
        RuntimeError: they differ, because of a bug or a faulty disk.
    """
    planned = (allocation.encoder_bytes, allocation.total_bytes)
    on_disk = (written.encoder_bytes, written.tensor_bytes)
    if planned != on_disk:
        raise RuntimeError(f"planned (encoder, total) bytes {planned}, on disk {on_disk}")
    again = tensor_digests(written.folder / WEIGHTS)
    differing = [name for name, digest in digests.items() if again.get(name) != digest]
    if differing or len(again) != len(digests):
        raise RuntimeError(f"{written.folder / WEIGHTS}: tensor {differing[:1]} differs from what was written")
