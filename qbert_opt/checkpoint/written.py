"""What was written, as the file itself says."""

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
    """What is on disk: `tensor_bytes` of payload, `header_bytes` that say where each tensor lies.

    `read_back` says what it answered when it was opened again.
    """

    folder: Path
    encoder_bytes: int
    tensor_bytes: int
    header_bytes: int
    read_back: ReadBack | None = None


def measure_folder(folder: Path, allocation: Allocation) -> WrittenModel:
    """Count the bytes of a written folder from the file itself.

    Args:
        folder: a quantized folder.
        allocation: the plan that it holds, whose bytes are compared.
    """
    path = folder / WEIGHTS
    with path.open("rb") as file:
        header_bytes = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_bytes - 8))
    sizes = {n: e["data_offsets"][1] - e["data_offsets"][0] for n, e in header.items() if n != "__metadata__"}
    encoder = sum(sizes.get(f"{m.module}.{part}", 0) for m in allocation.matrices for part in PARTS)
    return WrittenModel(folder, encoder, path.stat().st_size - header_bytes, header_bytes)


def check_written(written: WrittenModel, allocation: Allocation, digests: dict[str, str]) -> None:
    """Compare the file with the plan and with what was handed over.

    Args:
        written: as measured from the file.
        allocation: the plan.
        digests: sha256 of each tensor as it was handed over.

    Raises:
        RuntimeError: they differ: our bug, or a disk's.
    """
    planned = (allocation.encoder_bytes, allocation.total_bytes)
    found = (written.encoder_bytes, written.tensor_bytes)
    if planned != found:
        raise RuntimeError(f"planned (encoder, total) bytes {planned}, on disk {found}")
    again = tensor_digests(written.folder / WEIGHTS)
    differing = [name for name, digest in digests.items() if again.get(name) != digest]
    if differing or len(again) != len(digests):
        raise RuntimeError(f"{written.folder / WEIGHTS}: tensor {differing[:1]} reads otherwise than it was written")
