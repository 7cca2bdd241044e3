"""What a file format must define: our very codes as another tool's model file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from ..runtime.plugins import load_as

if TYPE_CHECKING:
    from ..quantization.quantized_matrix import StoredMatrix
    from ..spec.allocation import PlannedActivation
    from .traced_model import TracedModel

Activations = Literal["int8", "int8-coarse", "planned", "float32"]
"""How products round their inputs: to 8 bits in small blocks, to 8 bits in larger blocks (faster), in the ranges that
the plan found on calibration text, or not at all."""
ACTIVATIONS: tuple[Activations, ...] = get_args(Activations)


class Format(Protocol):
    """A file format, one file of `formats/writers`.

    Attributes:
        TITLE: its name as its owners write it.
        FILES: files that it consists of.
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
    ) -> None:
        """Convert a traced model and replace every quantized weight by its codes.

        Args:
            traced: the model with dequantized weights.
            stored: quantized matrices and tables by module, one at a time.
            folder: an existing folder that gets the files.
            activations: how products round their inputs.
            inputs: planned input ranges by module, for `planned`.

        Raises:
            InputFileError: a stored matrix is not in the converted graph.
            UsageError: a matrix is stored in a form that the format cannot hold.
        """
        ...


def file_format(name: str) -> Format:
    """Load a format by name.

    Raises:
        UsageError: there is no such format.
    """
    return load_as("formats", name, Format)
