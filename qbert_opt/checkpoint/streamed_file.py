"""A safetensors file written tensor by tensor; its header is written first, because the plan determines all shapes.

Only one tensor is in memory at a time, so a model may be larger than memory.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
import torch

DTYPES = {torch.float16: "F16", torch.uint8: "U8"}
READ_BYTES = 1 << 20

Shapes = Mapping[str, tuple[tuple[int, ...], torch.dtype]]


class StreamedFile:
    """Writes tensors of known shapes, each once and in any order.

    Attributes:
        digests: sha256 of each tensor passed to `write`.
    """

    def __init__(self, path: Path, shapes: Shapes, metadata: Mapping[str, str]) -> None:
        self._shapes, self.digests = dict(shapes), dict[str, str]()
        self._offsets: dict[str, int] = {}
        header: dict[str, object] = {"__metadata__": dict(metadata)}
        end = 0
        # wider types first, so that tensors are aligned when readers map the file
        for name in sorted(shapes, key=lambda n: (-shapes[n][1].itemsize, n)):
            shape, dtype = shapes[name]
            self._offsets[name], end = end, end + math.prod(shape) * dtype.itemsize
            header[name] = {"dtype": DTYPES[dtype], "shape": shape, "data_offsets": [self._offsets[name], end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._start, self._end = 8 + len(text), 8 + len(text) + end
        self._file = path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)

    def __enter__(self) -> StreamedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and (absent := self._shapes.keys() - self.digests.keys()):
            self._file.close()
            raise RuntimeError(f"tensor {min(absent)} was announced but never written")
        self._file.truncate(self._end)
        self._file.close()

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Write one tensor.

        Args:
            name: as announced.
            tensor: of the announced shape and type.

        Raises:
            RuntimeError: the tensor is unknown, has another shape than announced, or was already written (our bug).
        """
        if (tuple(tensor.shape), tensor.dtype) != self._shapes.get(name) or name in self.digests:
            raise RuntimeError(f"tensor {name} {tuple(tensor.shape)} {tensor.dtype} is not what was announced")
        # numpy, because torch calls a single element contiguous whatever its stride and then refuses to view its bytes
        data = np.ascontiguousarray(tensor.detach().cpu().numpy()).reshape(-1).view(np.uint8).data
        self._file.seek(self._start + self._offsets[name])
        self._file.write(data)
        self.digests[name] = hashlib.sha256(data).hexdigest()


def tensor_digests(path: Path) -> dict[str, str]:
    """Return the sha256 of each tensor of a safetensors file that was just written.

    Args:
        path: a safetensors file; its header is trusted.
    """
    digests = {}
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            file.seek(8 + size + begin)
            digest = hashlib.sha256()
            while begin < end and (part := file.read(min(READ_BYTES, end - begin))):
                digest.update(part)
                begin += len(part)
            digests[name] = digest.hexdigest()
    return digests
