"""Every reader of foreign files that the command line uses, with a good example to damage.

A new reader is one line of `readers`: a name, the function that the command line calls, the example's path, and the
files of it that are damaged.
"""

from __future__ import annotations

import json
import math
import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from damaged_tensors import mutate_tensors
from good_files import write_configs, write_examples
from mutation import mutate

from hwmodels import DeviceError
from qbert_opt.errors import QbertOptError

LONGEST_LINE = 2000  # characters of a refusal


def no_check(answer: Any) -> None:
    """Nothing is known of a right answer but that there is one."""


@dataclass(frozen=True)
class Reader:
    """A reader and its example.

    Attributes:
        name: for reports and seeds.
        read: reads the example, or raises a refusal.
        path: what `read` is given.
        files: files that are damaged, one at a time.
        check: raises AssertionError where an answer to a damaged file is wrong.
        damage: changes the content of a file.
    """

    name: str
    read: Callable[[Path], Any]
    path: Path
    files: Sequence[Path]
    check: Callable[[Any], None] = no_check
    damage: Callable[[bytes, random.Random], bytes] = mutate


@dataclass(frozen=True)
class Outcome:
    """What became of one damaged file: `answer`, `refusal` or `failure`, with the words of a failure."""

    kind: str
    words: str = ""


def attempt(reader: Reader, seed: int) -> Outcome:
    """Damage one file of a reader's example, read it, and put the file back; the same seed does the same."""
    rng = random.Random(f"{reader.name} {seed}")
    file = rng.choice(list(reader.files))
    original = file.read_bytes()
    try:
        file.write_bytes(reader.damage(original, rng))
        return _outcome(reader)
    finally:
        file.write_bytes(original)


def _outcome(reader: Reader) -> Outcome:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = reader.read(reader.path)
            reader.check(answer)
    except (QbertOptError, DeviceError) as refusal:
        line = str(refusal)
        if line.strip() and len(line.splitlines()) == 1 and len(line) <= LONGEST_LINE:
            return Outcome("refusal")
        return Outcome(
            "failure", f"a refusal of {len(line)} characters in {len(line.splitlines())} lines: {line[:300]!r}"
        )
    except Exception as error:
        return Outcome("failure", f"{type(error).__name__}: {error}"[:300])
    return Outcome("answer")


def readers(folder: Path) -> list[Reader]:
    """Make the examples in an empty folder; every reader is one line."""
    from hwmodels import load_device
    from qbert_opt.checkpoint.reader import load_quantized
    from qbert_opt.data.texts import read_texts
    from qbert_opt.engines.record import read_checks, read_record
    from qbert_opt.models.loading import load_model
    from qbert_opt.planning.measured_points import read_measured
    from qbert_opt.planning.planner import allocate
    from qbert_opt.reports.html import html_report
    from qbert_opt.spec.allocation import read_allocation
    from qbert_opt.spec.limits import Limits
    from qbert_opt.spec.scores import read_scores

    write_examples(folder)
    scores = read_scores(folder / "scores.json")
    half = Limits(encoder_bytes=scores.profile.encoder_elements // 2)
    data = folder / "data"

    def one(name: str, read: Callable[[Path], Any], path: Path, check: Any = no_check):
        return Reader(name, read, path, [path], check)

    def every(name: str, read: Callable[[Path], Any], root: Path, path: Path | None = None, check: Any = no_check):
        return Reader(name, read, path or root, sorted(root.iterdir()), check)

    weights = [folder / "model" / "model.safetensors"]
    return [
        Reader("source model", load_model, folder / "model", weights, _check_model, mutate_tensors),
        Reader("scoring a source model", _score, folder / "model", weights, _check_scores, mutate_tensors),
        one("scores", read_scores, folder / "scores.json", _check_scores),
        one("plan", read_allocation, folder / "plan.json", _check_plan),
        one("report of a plan", lambda path: html_report(read_allocation(path), measured=None), folder / "plan.json"),
        one("solve from scores", lambda path: allocate(read_scores(path), half), folder / "scores.json", _check_plan),
        one("measured points", read_measured, folder / "measured.json", _check_measured),
        one("progress", _read_progress, folder / "jobs.partial", _check_progress),
        one("device", lambda path: load_device(str(path)), folder / "device.yaml"),
        every("quantized folder", load_quantized, folder / "out", check=_check_quantized),
        every("engine folder", lambda path: read_checks(path, read_record(path)), folder / "engine"),
        *(one(f"data {file.name}", read_texts, file, _check_texts) for file in sorted(data.glob("*.*"))),
        every("data slots", read_texts, data / "slots", check=_check_texts),
        every("data triples", read_texts, data / "triples", data / "triples" / "dev.tsv", _check_texts),
        every("data saved", read_texts, data / "saved", check=_check_texts),
        *(one(f"vocabulary {file.parent.name}", _trim, file) for file in sorted(folder.glob("vocabularies/*/*"))),
        *(one(f"config {tool} {file.suffix}", importer, file) for tool, file, importer in write_configs(folder)),
    ]  # fmt: skip


def _trim(path: Path) -> Any:
    """What `trim-vocabulary` makes of a tokenizer without any text."""
    from qbert_opt.models.pieces import (
        essential_pieces,
        new_ids,
        read_tokenizer,
        vocabulary,
        with_parts,
        without_others,
    )

    document = read_tokenizer(path.parent)
    kept = with_parts(document, essential_pieces(document))
    return without_others(document, new_ids(vocabulary(document), kept))


def _score(path: Path) -> Any:
    """What `sensitivity` makes of a model folder."""
    from qbert_opt.data.texts import read_texts
    from qbert_opt.models.loading import load_model
    from qbert_opt.quantization.calibration import CalibrationPlan
    from qbert_opt.scoring.sensitivity import measure_sensitivity
    from qbert_opt.spec.grids import grid

    texts = read_texts(path.parent / "data" / "a.tsv")
    choices = grid((2, 8), ("rows:each",), "rtn")
    return measure_sensitivity(load_model(path), texts, choices, plan=CalibrationPlan(8, 8, 0))


def _check_model(loaded: Any) -> None:
    """Every weight of the model is finite, and what an independent reader finds under its name in the file."""
    content = (loaded.folder / "model.safetensors").read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:begin])
    types = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
    for name, tensor in loaded.model.state_dict().items():
        assert not tensor.is_floating_point() or bool(tensor.isfinite().all()), name
        entry = header.get(name)
        if entry is not None and entry["dtype"] in types:
            first, last = entry["data_offsets"]
            stored = np.frombuffer(content[begin + first : begin + last], types[entry["dtype"]])
            assert np.array_equal(stored.reshape(entry["shape"]).astype("<f4"), tensor.numpy()), name


def _read_progress(path: Path) -> dict[str, list[float]]:
    """What a run that goes on finds, on a copy: it writes its file again, and holds its lock until the process ends."""
    from qbert_opt.runtime import locks
    from qbert_opt.runtime.resumable import Jobs

    copy = path.with_name("copy.partial")
    copy.write_bytes(path.read_bytes())
    try:
        return Jobs(copy, "run").finished
    finally:
        locks.release(copy)


def _check_scores(table: Any) -> None:
    assert np.isfinite(table.values()[[[v is not None for v in row] for row in table.value]]).all()


def _check_plan(plan: Any) -> None:
    assert plan.encoder_bytes == sum(m.bytes for m in plan.matrices)
    assert math.isfinite(plan.predicted_loss)


def _check_measured(found: Any) -> None:
    assert all(point.low is None or point.low <= point.loss <= point.high for point in found.points)


def _check_progress(finished: Any) -> None:
    """What is kept is what was written: a job is done again rather than believed."""
    assert all(values == [int(key.removeprefix("job ")) / 3, -1.5] for key, values in finished.items())


def _check_quantized(found: Any) -> None:
    loaded, _ = found
    assert all(bool(parameter.isfinite().all()) for parameter in loaded.model.parameters())


def _check_texts(found: Any) -> None:
    assert len(found) and all(isinstance(part, str) and part.strip() for text in found.texts for part in text)
    assert found.labels is None or len(found.labels) == len(found)
    assert len(found.sha256) == 64
