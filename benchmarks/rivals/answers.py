"""Ask a rival in its own environment, and read its answer: bits for every matrix of the encoder."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from benchmarks.rivals.asked import Asked
from benchmarks.rivals.environment import python_of
from qbert_opt.models.samples import NONE, Targets, TokenBatch
from qbert_opt.spec.choices import Choice
from qbert_opt.spec.profiles import ModelProfile

ROOT = Path(__file__).parents[2]
GROUPING = "rows:each"
BITS = (2, 3, 4, 8)


class WrongAnswer(Exception):
    """A rival's answer that does not fit the model."""


@dataclass(frozen=True)
class RivalPlan:
    """A rival's plan.

    Attributes:
        rival: name of its file.
        way: the rival's name of the criterion.
        package: with version.
        code_bits: mean bits of a code that were asked.
        satisfied: whether the rival says that it kept them.
        bits: of each matrix.
        scoring_s: processor time of scoring all widths, in seconds.
    """

    rival: str
    way: str
    package: str
    code_bits: float
    satisfied: bool
    bits: Mapping[str, int]
    scoring_s: float

    def choices(self, method: str) -> dict[str, Choice]:
        """The plan with one range per row."""
        return {module: Choice(bits, GROUPING, method) for module, bits in self.bits.items()}


@dataclass(frozen=True)
class Refusal:
    """A rival that has no plan for the model, with its reason."""

    package: str
    reason: str


def code_bits(profile: ModelProfile, budget: float, method: str) -> float:
    """Mean bits that a budget leaves to codes once each row has its range.

    Args:
        profile: shapes of the model.
        budget: bits per weight of the encoder's matrices, ranges included.
        method: quantizer.
    """
    ranges = sum(
        Choice(BITS[0], GROUPING, method).metadata_bytes(m.rows, m.columns, heads=profile.heads_of(m))
        for m in profile.matrices
    )
    return budget - 8 * ranges / profile.encoder_elements


def request(
    model: Path, kind: str, profile: ModelProfile, budgets: Sequence[float], batches: Sequence[TokenBatch],
    targets: Targets | None, method: str,
) -> Asked:  # fmt: skip
    """What every rival is asked: the same texts with their right answers, widths and limits."""
    return Asked(
        model=str(model.resolve()),
        kind=kind,
        modules=tuple(m.module for m in profile.matrices),
        bits=BITS,
        code_bits=tuple(code_bits(profile, budget, method) for budget in budgets),
        batches=tuple(
            {name: rows.tolist() for name, rows in (batch.inputs | right_answers(batch, targets)).items()}
            for batch in batches
        ),
    )


def right_answers(batch: TokenBatch, targets: Targets | None) -> dict[str, torch.Tensor]:
    """The right answers of a batch, by the names of transformers; none for embeddings."""
    if targets is None:
        return {}
    if targets.kind != "spans":
        return {"labels": labels(batch, targets)}
    tokens = targets.rows.view(-1, 2)[list(batch.indices)]  # start and end of each window
    outside = batch.inputs["input_ids"].shape[1]  # transformers leaves out what lies beyond the text
    tokens = tokens.masked_fill(tokens == NONE, outside)
    return {"start_positions": tokens[:, 0], "end_positions": tokens[:, 1]}


def labels(batch: TokenBatch, targets: Targets) -> torch.Tensor:
    """Labels of a batch: one per text, or one per token with `NONE` where there is none."""
    if batch.positions is None:
        return targets.rows[list(batch.indices)]
    found = torch.full(batch.positions.shape, NONE)
    for row, sample in enumerate(batch.indices):
        found[row, batch.positions[row]] = targets.rows[targets.samples == sample]
    return found


def ask(rival: str, asked: Asked, environments: Path, folder: Path) -> list[RivalPlan] | Refusal:
    """Run a rival, or read what it answered before.

    Raises:
        MissingEnvironment: it is not installed.
        WrongAnswer: it failed, or its answer does not fit the model.
    """
    asking, question = request_file(folder, asdict(asked))
    answered = asking.with_name(asking.name.replace("request", rival))
    if not answered.exists():
        asking.write_text(question)
        _run(rival, rival, [str(asking), str(answered)], environments, folder)
    return read_answer(rival, answered, asked)


def ask_codes(
    rival: str, way: str, asked: Asked, bits: Mapping[str, int], environments: Path, folder: Path
) -> tuple[dict[str, torch.Tensor], float]:
    """Have a rival round the matrices itself, or read what it answered before.

    Args:
        rival: its name.
        way: of rounding, if it has several.
        asked: what it was asked.
        bits: of each matrix.
        environments: folder of the rivals' environments.
        folder: of requests and answers.

    Returns:
        The rounded weight of each matrix, float32, and the processor time of rounding in seconds.

    Raises:
        MissingEnvironment: it is not installed.
        WrongAnswer: it failed, or its weights do not fit the bits.
    """
    asking, question = request_file(folder, asdict(asked) | {"bits_of": dict(bits)})
    answered = asking.with_name(asking.stem.replace("request", f"{rival}-{way}-codes") + ".safetensors")
    if not answered.exists():
        asking.write_text(question)
        _run(rival, f"{rival}_codes", [str(asking), str(answered), way], environments, folder)
    with safe_open(answered, "pt") as file:
        weights = {module: file.get_tensor(module) for module in file.keys()}  # noqa: SIM118 -- no mapping
        rounding_s = float(file.metadata()["rounding_s"])
    check_codes(rival, weights, bits)
    return weights, rounding_s


def check_codes(rival: str, weights: Mapping[str, torch.Tensor], bits: Mapping[str, int]) -> None:
    """Refuse weights with more levels in a row than the bits allow.

    Raises:
        WrongAnswer: it names the matrix.
    """
    if set(weights) != set(bits):
        raise WrongAnswer(f"{rival}: rounded {len(weights)} matrices; asked were {len(bits)}.")
    for module, weight in weights.items():
        levels = max(len(row.unique()) for row in weight)
        if levels > 2 ** bits[module]:
            raise WrongAnswer(f"{rival}: a row of {module} has {levels} levels, which {bits[module]} bits do not hold.")


def request_file(folder: Path, question: Mapping[str, object]) -> tuple[Path, str]:
    """Name a request's file by its content; returns the path and the content."""
    text = json.dumps(question)
    return folder / f"request-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json", text


def _run(rival: str, module: str, arguments: Sequence[str], environments: Path, folder: Path) -> None:
    """Run a script of a rival in its environment, one thread, no network."""
    command = [str(python_of(rival, environments)), "-m", f"benchmarks.rivals.{module}", *arguments]
    limits = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=os.environ | limits, capture_output=True, text=True, check=False)
    (folder / f"{module}.log").write_text(done.stdout + done.stderr)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise WrongAnswer(f"{module}: failed with exit code {done.returncode}: {last}")


def read_answer(rival: str, path: Path, asked: Asked) -> list[RivalPlan] | Refusal:
    """Read an answer.

    Raises:
        WrongAnswer: bits that were not among the legal ones, or modules that are not exactly the model's.
    """
    try:
        found = json.loads(path.read_text())
        package = f"{found['package']} {found['version']}"
        if "refused" in found:
            return Refusal(package, found["refused"])
        plans = [
            RivalPlan(rival, p["way"], package, p["code_bits"], p["satisfied"], dict(p["bits"]), found["scoring_s"])
            for p in found["plans"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise WrongAnswer(f"{rival}: {path.name} is no answer: {type(error).__name__}: {error}.") from None
    for plan in plans:
        unknown = sorted(set(plan.bits) - set(asked.modules))
        missing = [module for module in asked.modules if module not in plan.bits]
        if unknown or missing:
            fault = f"{unknown[0]} is not a matrix of the model" if unknown else f"{missing[0]} has no bits"
            raise WrongAnswer(f"{rival}, {plan.way}, {plan.code_bits:.4g} bits: {fault}.")
        for module, bits in plan.bits.items():
            if type(bits) is not int or bits not in asked.bits:
                legal = ", ".join(map(str, asked.bits))
                raise WrongAnswer(f"{rival}, {plan.way}: {module} has {bits!r} bits; legal: {legal}.")
    return plans
