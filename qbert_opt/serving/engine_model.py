"""An engine behind the face of a torch model, so that whatever is measured of a model can be measured of an engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..checkpoint.reader import folder_bytes, is_quantized, load_quantized
from ..checkpoint.record import PLAN
from ..engines.engine_module import engine_module
from ..engines.timing import Timing
from ..errors import InputFileError
from ..models.loading import LoadedModel, load_tokenizer, written_config
from ..spec.allocation import Allocation, read_allocation
from .predictor import Predictor


@dataclass(frozen=True, slots=True)
class Served:
    """A model that an engine runs.

    Attributes:
        loaded: answers like the torch model that it came from.
        folder: where the engine's files are; a temporary place when a quantized folder was exported for this.
        stored_bytes: bytes of the engine's weights on disk.
        allocation: the plan it was made by.
    """

    loaded: LoadedModel
    folder: Path
    stored_bytes: int
    allocation: Allocation
    predictor: Predictor | None


def serve(folder: str | Path, engine: str | None = None, *, threads: int | None = None) -> Served:
    """Open an exported or quantized folder in an engine.

    Args:
        folder: as `quantize` or `export` wrote it.
        engine: by default what the folder was exported to; another one exports a quantized folder to a temporary place.
        threads: processor threads; None is the engine's own choice.

    Raises:
        InputFileError: the folder is neither, is broken, or the engine's answers are off.
        UsageError: an engine that is unknown, not installed or not this folder's.
    """
    root = Path(folder)
    if not (root / PLAN).is_file():
        raise InputFileError(f"{folder}: is no quantized or exported folder: it has no {PLAN}.")
    if engine == "torch" and is_quantized(root):
        loaded, allocation = load_quantized(root)
        return Served(loaded, root, folder_bytes(root), allocation, None)
    predictor = Predictor(root, engine, threads=threads)
    allocation = read_allocation(root / PLAN)
    config = written_config(root)
    module = engine_module(predictor.session, predictor.inputs, config, allocation.profile.architecture)
    loaded = LoadedModel(
        str(folder),
        module,
        load_tokenizer(root, config),
        allocation.profile.sha256,
        max_tokens=predictor.max_tokens,
    )
    return Served(loaded, predictor.folder, predictor.stored_bytes, allocation, predictor)


def timing_rows(rows: list[tuple[str, Timing]], predicted_s: float | None) -> list[str]:
    """What runs took and hold, one line per model, under each other.

    Args:
        rows: name and timing of each model.
        predicted_s: latency that the plan predicts on its device; None where there is no device.
    """
    lines = []
    for name, t in rows:
        private = "-" if t.private_bytes is None else f"{t.private_bytes / 1e6:.1f} MB"
        lines.append(
            f"{name}: {t.engine_label}, {t.shape[0]} x {t.shape[1]} tokens, {t.threads or 'all'} thread(s): "
            f"{1e3 * t.median_cpu_s:.2f} ms of processor time in the median (quartiles {100 * t.spread:.0f} % apart), "
            f"{1e3 * t.median_wall_s:.2f} ms by the clock; load {t.load_s:.2f} s; private memory {private}"
        )
    if predicted_s is not None:
        lines.append(f"predicted by the plan on its device: {1e3 * predicted_s:.2f} ms")
    return lines
