"""The teacher's outputs on disk, whole or a chosen share of them, so that later passes over the text do not run it.

HSK (Liu et al. 2021): a student learns almost as much from a small part of the hidden states. A share `s` below 1 keeps

    layers     those that the losses read: `last-hidden` reads one, `hidden` all
    tokens     √s of each text: those that the first token attends to most, mean over heads and blocks; separators last
    channels   √s of each layer: those with the largest mean square over a sample of the text

in fp16. Outputs are kept whole. A batch is one safetensors file with a hash of its content, written when the batch is
first read, so a killed run resumes with the existing files.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..errors import InputFileError, UsageError
from ..models.batches import TokenBatch
from ..models.loading import LoadedModel
from ..models.outputs import Outputs
from ..models.targets import Targets
from ..runtime.files import atomic_file
from ..spec.allocation import Allocation
from .passes import Pass, Point, attention_maps, attention_scores
from .teacher import Teacher

SAMPLE = 8  # batches that choose the channels
KEY = "run"


class StoringTeacher(Teacher):
    """A teacher whose outputs for training are stored on disk.

    Attributes:
        points: what is stored besides the outputs of the head.
        folder: where.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        plan: Allocation,
        batches: Sequence[TokenBatch],
        labels: Targets | None = None,
        *,
        folder: Path,
        points: Sequence[Point],
        share: float = 1.0,
        fingerprint: str = "",
    ) -> None:
        """Choose channels; nothing is stored yet.

        Args:
            loaded: the model.
            plan: of this model.
            batches: the training text.
            labels: correct answers for the text.
            folder: where the files are; made if it does not exist.
            points: what to store.
            share: of the hidden states, above 0 and at most 1.
            fingerprint: of the run; files of another run are refused.

        Raises:
            UsageError: a part of something other than hidden states is asked for, attention cannot be read, or the
                folder cannot be made.
        """
        super().__init__(loaded, plan, batches, labels)
        if share < 1 and (other := [what for what, _ in points if what != "hidden"]):
            raise UsageError(
                f"`teacher_cache`: {share:.0%} keeps a part of hidden states, and a loss reads the {other[0]} layers. "
                "Give 100%, or losses logits, last-hidden and hidden."
            )
        self.points, self.folder = tuple(points), folder
        self._fingerprint, self._part = fingerprint, math.sqrt(share)
        self._modules = self.modules_of(self.points)
        queries = [(what, block) for block in range(len(self.blocks)) for what in ("query", "key")]
        self._attention = self.modules_of(queries) if share < 1 else {}
        self._widths = dict[Point, int]()
        self._channels = self._chosen_channels()
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise UsageError(f"{folder}: cannot be made: {error.strerror}.") from None

    @torch.no_grad()
    def answer(self, index: int, modules: Mapping[Point, str]) -> Pass:
        """Return the stored pass over a batch, running and storing it first if it is new.

        Args:
            index: number of the batch.
            modules: name of the student's module, by point; every point must be in `points`.

        Raises:
            InputFileError: the file is damaged or belongs to another run.
            ValueError: a point is not stored.
        """
        if not modules.keys() <= set(self.points):
            raise ValueError(f"not stored: {', '.join(map(str, modules.keys() - set(self.points)))}")
        file = self._file(index)
        if not file.exists():
            self._store(index, file)
        return self._read(index, file)

    @property
    def num_bytes(self) -> int:
        """Size of the files so far."""
        return sum(file.stat().st_size for file in map(self._file, range(len(self.batches))) if file.exists())

    def remove(self) -> None:
        """Delete the files, and the folder unless it holds anything else."""
        for index in range(len(self.batches)):
            self._file(index).unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    def _file(self, index: int) -> Path:
        return self.folder / f"{index:06d}.safetensors"

    def _chosen_channels(self) -> dict[Point, torch.Tensor]:
        """Channels to store of each point, ascending."""
        count = len(self.batches)
        energies: dict[Point, torch.Tensor] = {}
        for index in np.unique(np.linspace(0, count - 1, min(SAMPLE, count)).round().astype(int)).tolist():
            made = self.run(index, self._modules)
            for point, states in made.points.items():
                energy = states[self.batches[index].mask].square().sum(0)
                energies[point] = energies.get(point, torch.zeros_like(energy)) + energy
        self._widths = {point: len(energy) for point, energy in energies.items()}
        return {
            point: energy.topk(math.ceil(self._part * len(energy))).indices.sort().values
            for point, energy in energies.items()
        }

    def _chosen_tokens(self, batch: TokenBatch, made: Pass) -> torch.Tensor:
        """Mark the tokens to store, bool `[B, T]`."""
        if not self._attention:
            return batch.mask
        attention = torch.zeros(batch.mask.shape)
        for block in range(len(self.blocks)):
            scores = attention_scores(made, self.heads[block], block)
            attention += attention_maps(scores, batch.mask)[:, :, 0].exp().mean(1)
        separator = getattr(self.loaded.tokenizer, "sep_token_id", None)
        if separator is not None and "input_ids" in batch.inputs:
            attention[batch.inputs["input_ids"] == separator] = 0.0
        attention[:, 0] = torch.inf  # what classifiers read
        attention[~batch.mask] = -1.0
        kept = (self._part * batch.mask.sum(1)).ceil()
        chosen: torch.Tensor = attention.argsort(dim=1, descending=True, stable=True).argsort(dim=1) < kept[:, None]
        return chosen

    def _store(self, index: int, file: Path) -> None:
        batch = self.batches[index]
        made = self.run(index, self._modules | self._attention)
        tokens = self._chosen_tokens(batch, made)
        tensors = {"rows": made.rows.values, "samples": made.rows.samples, "tokens": tokens}
        for number, point in enumerate(self.points):
            tensors[f"states.{number}"] = made.points[point][tokens][:, self._channels[point]].half()
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        with atomic_file(file) as temporary:
            try:
                save_file(tensors, temporary, metadata={KEY: self._fingerprint, "sha256": _digest(tensors)})
            except SafetensorError as error:
                raise OSError(str(error)) from None

    def _read(self, index: int, file: Path) -> Pass:
        tensors = {}
        try:
            with safe_open(file, framework="pt") as opened:
                metadata = opened.metadata() or {}
                for name in opened.keys():  # noqa: SIM118  (no mapping)
                    tensors[name] = opened.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise InputFileError(f"{file}: cannot be read: {error}. {self._remedy}") from None
        if metadata.get(KEY) != self._fingerprint or metadata.get("sha256") != _digest(tensors):
            raise InputFileError(f"{file}: is damaged or of another run. {self._remedy}")
        tokens, points, known = tensors["tokens"], {}, {}
        rows = tokens.nonzero()
        for number, point in enumerate(self.points):
            values, channels = tensors[f"states.{number}"], self._channels[point]
            places = (rows[:, :1], rows[:, 1:], channels[None])
            points[point], known[point] = (torch.zeros(*tokens.shape, self._widths[point]) for _ in range(2))
            points[point][places] = values.float()
            known[point][places] = 1.0
        outputs = Outputs(self.head.kind, tensors["rows"], tensors["samples"], len(self.batches[index].indices))
        return Pass(outputs, points, known)

    @property
    def _remedy(self) -> str:
        return f"Remove {self.folder} to compute it again."


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    """Hash of names, types, shapes and content."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()
