"""The interface of a file format, which writes our codes, unchanged, as a model file of another tool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from ..runtime.plugins import load_as

if TYPE_CHECKING:
    from ..quantization.quantized_matrix import StoredMatrix
    from ..spec.planned import PlannedActivation
    from .traced_model import TracedModel

Activations = Literal["int8", "int8-coarse", "planned", "float32"]
"""How matrix products round their inputs: to 8 bits in small blocks, to 8 bits in larger blocks (faster), in the static
ranges of the plan, or not at all."""
ACTIVATIONS: tuple[Activations, ...] = get_args(Activations)


class Format(Protocol):
    """A file format, one file of `formats/writers`.

    Attributes:
        TITLE: its official name.
        FILES: names of the files that a model consists of.
    """

    TITLE: str
    FILES: tuple[str, ...]

    def write(
        self,
        traced: TracedModel,
        stored: Iterable[StoredMatrix],
        folder: Path,
        activations: Activations = "int8",
        inputs: Mapping[str, PlannedActivation] | None = None,
        scores: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        """Convert a traced model, with every quantized weight replaced by its codes.

        Args:
            traced: the model with dequantized weights.
            stored: quantized matrices and tables by module, one at a time.
            folder: an existing folder that the files are written to.
            activations: how matrix products round their inputs.
            inputs: planned input ranges by module, for `planned`.
            scores: ends of the signed 8-bit ranges of queries and keys by module, for engines that multiply them in
                integers; None for others.

        Raises:
            InputFileError: a stored matrix is missing from the converted graph.
            UsageError: a matrix is stored in a form that the format cannot hold.
        """
        ...


def file_format(name: str) -> Format:
    """Load a format by name.

    Args:
        name: for example `onnx`.

    Raises:
        UsageError: there is no such format.
    """
    return load_as("formats", name, Format)
