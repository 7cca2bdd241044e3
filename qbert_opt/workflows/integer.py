"""Compile a quantized folder to an integer-only program, prove it, run it twice, and write it with the findings."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..checkpoint.reader import load_quantized, read_matrices
from ..checkpoint.record import PLAN
from ..costs.functions import AUTO, cheapest_ways, planned_functions
from ..costs.workload import FLOAT, workload_of
from ..data.texts import LabeledTexts
from ..engines.agreement import Agreement, AgreementLimits, Check, answer_rows, compare
from ..engines.record import EngineRecord
from ..engines.session import engine
from ..errors import QbertOptWarning, UsageError
from ..formats.traced_model import traceable
from ..integer.compiler import compile_model
from ..integer.emitter import check_emission, emitter
from ..integer.families import encoder_of
from ..integer.folder import CONSTANTS, PROGRAM, write_program
from ..integer.narrow import NarrowExecutor
from ..integer.program import Program
from ..integer.reference import Reference
from ..integer.summary import ProgramSummary, summary_of, write_summary
from ..integer.ways import BY_TABLE, Ways, parse_ways
from ..models.loading import tokenized
from ..runtime.files import atomic_folder
from ..runtime.progress import Progress, silent
from ..spec.allocation import read_allocation
from .engine_folder import complete_folder
from .export_check import check_samples, checks_of, in_batches
from .export_verdict import ROUNDING_LIMITS

if TYPE_CHECKING:
    from hwmodels import Device

ENGINE = "integer"
BATCH = 16
NARROW_TOKENS = 64  # about as many tokens go through the int32 executor, which is slow
STEPS = 5


@dataclass(frozen=True, slots=True)
class IntegerModel:
    """A written program.

    Attributes:
        folder: where it was written.
        summary: widths and errors.
        record: the checks and their results.
        num_texts: number of calibration texts used.
        narrow_tokens: tokens on which the int32 executor matched the reference.
    """

    folder: Path
    summary: ProgramSummary
    record: EngineRecord
    num_texts: int
    narrow_tokens: int


def planned_ways(folder: str | Path, text: str | None, device: Device | None) -> Ways:
    """Return the method of computing each nonlinear function.

    Args:
        folder: a quantized folder.
        text: methods as in `parse_ways`, or `auto`; None takes those that the plan was priced with, else tables.
        device: hardware that sets the prices of `auto`.

    Raises:
        InfeasibleError: `auto`, and no unit of the device can compute some function in integers.
        InputFileError: a damaged plan.
        UsageError: a function or method that does not exist, `auto` without a device, or a plan that was priced with
            functions in floating point.
    """
    if text is not None and text != AUTO:
        return parse_ways(text, AUTO)
    plan = read_allocation(Path(folder) / PLAN)
    if text is None:
        functions = planned_functions(plan.functions)
        if functions == FLOAT:
            raise UsageError(f"{folder}: was priced with functions in floating point. Give `nonlinearity`.")
        return BY_TABLE if functions is None else functions
    if device is None:
        raise UsageError(f"`nonlinearity` {AUTO}: needs `device`, whose prices choose.")
    own = plan.device
    return cheapest_ways(plan.profile, workload_of(plan.profile, own.seq_len if own else None), device)


def integer_model(
    folder: str | Path,
    texts: LabeledTexts,
    output: str | Path,
    *,
    ways: Ways = BY_TABLE,
    num_texts: int = 256,
    emit: Sequence[str] = (),
    emit_tokens: int | None = None,
    progress: Progress = silent,
) -> IntegerModel:
    """Compile a quantized folder to integers only and write the program as a folder that `run` and `evaluate` open.

    Args:
        folder: a quantized folder whose plan rounds the inputs of matrices in static ranges.
        texts: calibration text for the ranges that the plan does not fix.
        output: folder to write, completely or not at all.
        ways: method for each nonlinear function.
        num_texts: how many of the texts are used.
        emit: names of emitters, which write the program for other tools into the same folder.
        emit_tokens: longest text that their files accept; None takes the program's.
        progress: called with steps done, number of steps, and the current step.

    Returns:
        The written folder with widths, errors and the comparison with torch's outputs.

    Warns:
        QbertOptWarning: the outputs differ more from torch's than is allowed for an export.

    Raises:
        UsageError: no integer form, or too few texts; see `compile_model`. Or an emitter that does not exist, lacks a
            package, or would have to take longer texts than the program.
        InputFileError: a damaged folder.
    """
    progress(0, STEPS, "reading")
    loaded, allocation = load_quantized(folder)
    encoder = encoder_of(loaded)
    check_emission(emit, emit_tokens, loaded.longest)
    data, samples = check_samples(Path(folder), loaded, allocation, None)
    few = texts.take(range(min(num_texts, len(texts))))
    traced = traceable(loaded)
    progress(1, STEPS, "calibrating and compiling")
    batches = tokenized(loaded, few.texts, batch_size=BATCH)
    stored = read_matrices(folder, allocation)
    compiled = compile_model(encoder, stored, allocation.activations, batches, traced.inputs, ways)
    progress(2, STEPS, "checking int32 against int64")
    questions = checks_of(loaded, traced, in_batches(samples))
    narrow_tokens = _check_narrow(compiled.program, questions)
    with atomic_folder(output) as target:
        write_program(compiled.program, target)
        exported_bytes = sum((target / name).stat().st_size for name in (PROGRAM, CONSTANTS))
        progress(3, STEPS, "comparing with torch")
        session = engine(ENGINE).open_model(target)
        own = [
            replace(check, answers=answer_rows(loaded.head.kind, session.run(check.inputs), check.positions))
            for check in questions
        ]
        pairs = [(check.answers, answered.answers) for check, answered in zip(questions, own, strict=True)]
        agreement = compare(loaded.head.kind, pairs)
        if agreement is None:
            raise UsageError(f"{folder}: its outputs have no integer form.")
        progress(4, STEPS, "writing")
        tokens = loaded.longest if emit_tokens is None else emit_tokens
        emitted = tuple(emitter(name).emit(compiled.program, target, tokens) for name in emit)
        summary = summary_of(compiled, ways, emitted)
        write_summary(summary, target)
        record = complete_folder(
            target, ENGINE, folder, loaded, allocation, own, inputs=traced.inputs,
            outputs=tuple(result.name for result in compiled.program.outputs), exported_bytes=exported_bytes,
            activations="planned", checked_on=data, agreement=agreement, graph_difference=agreement.difference,
            limits=AgreementLimits(difference=0.0),
        )  # fmt: skip
    _warn(str(output), agreement)
    return IntegerModel(Path(output), summary, record, len(few), narrow_tokens)


def _check_narrow(program: Program, questions: Sequence[Check]) -> int:
    """Run some texts in int32 and in int64; return the number of tokens.

    Raises:
        ArithmeticError: the answers differ, which is a bug.
    """
    reference, narrow = Reference(program), NarrowExecutor(program)
    tokens = 0
    for check in sorted(questions, key=lambda check: next(iter(check.inputs.values())).size):
        size = next(iter(check.inputs.values())).size
        if tokens and tokens + size > NARROW_TOKENS:
            break
        tokens += size
        wide = reference.run(check.inputs)
        for name, array in narrow.run(check.inputs).items():
            if not np.array_equal(array, wide[name]):
                raise ArithmeticError(f"{name}: the int32 executor disagrees with the reference")
    return tokens


def _warn(output: str, agreement: Agreement) -> None:
    if not ROUNDING_LIMITS.hold(agreement):
        warnings.warn(
            f"{output}: integers change more than an export may: {agreement}. `nonlinearity` table is the most exact; "
            "scoring with `activation_bits` 8,16 gives 16 bits to inputs that need them.",
            QbertOptWarning,
            stacklevel=3,
        )
