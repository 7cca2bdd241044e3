"""Quantization errors of a model's matrices, one matrix after another, within a memory limit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from ..data.texts import LabeledTexts
from ..models.loading import LoadedModel
from ..models.paging import pass_bytes, release_pages
from ..quantization.calibration import MatrixQuantizer
from ..runtime.memory_budget import MemoryShares
from ..spec.choices import Choice
from ..spec.profiles import MatrixSpec, ModelProfile

ROUNDING_BYTES = 40  # per weight and choice: codes, the quantizer's working copies, a second attempt, error twice


class Perturbations:
    """Quantization errors of one matrix after another, a few choices at a time; stores their squared norms.

    The quantizer's statistics are computed for as many of the expected matrices as fit into memory, or on the disk if
    the model is paged.

    Attributes:
        norms: ‖ΔW‖² of each choice, by module.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        profile: ModelProfile,
        method: str,
        fit: LabeledTexts,
        choices: Mapping[str, Sequence[Choice]],
        shares: MemoryShares,
    ) -> None:
        self.norms: dict[str, list[float]] = {}
        self._loaded, self._profile, self._method, self._fit = loaded, profile, method, fit
        self._choices, self._shares = choices, shares
        self._expected: list[MatrixSpec] = []
        self._group: list[MatrixSpec] = []
        self._quantizer: MatrixQuantizer | None = None

    def expect(self, matrices: Sequence[MatrixSpec]) -> None:
        """Announce which matrices will be requested, in which order.

        Args:
            matrices: the matrices, in the order of the requests.
        """
        self._expected = list(matrices)

    def __call__(self, matrix: MatrixSpec) -> Iterator[torch.Tensor]:
        """Yield ΔW of one matrix, float32 `[some choices, rows, columns]` at a time."""
        quantizer = self._quantizer_of(matrix)
        choices = self._choices[matrix.module]
        needed = ROUNDING_BYTES * matrix.elements
        self._shares.refuse_less(self._shares.rounding, needed, f"{matrix.module}: rounding it once")
        step = self._shares.rounding // needed
        norms: list[float] = []
        for start in range(0, len(choices), step):
            errors = quantizer.errors(matrix, choices[start : start + step])
            release_pages(self._loaded.model)
            norms.extend(errors.flatten(1).double().square().sum(1).tolist())
            yield errors
        self.norms[matrix.module] = norms

    def _quantizer_of(self, matrix: MatrixSpec) -> MatrixQuantizer:
        if self._quantizer is None or matrix not in self._group:
            self._quantizer = None  # free its statistics before computing new ones
            start = self._expected.index(matrix)
            self._group, used = [], 0
            limit = pass_bytes(self._loaded.model, self._shares.statistics)
            for following in self._expected[start:]:
                used += 4 * following.columns**2
                if self._group and used > limit:
                    break
                self._group.append(following)
            part = self._profile.model_copy(update={"matrices": tuple(self._group)})
            self._quantizer = MatrixQuantizer(self._loaded, part, self._method, self._fit)
        return self._quantizer
