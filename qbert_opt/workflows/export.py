"""Export a quantized folder to an engine's files, accepted only if the outputs agree with PyTorch's."""

from __future__ import annotations

import copy
import math
import shutil
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..checkpoint.reader import load_quantized, read_matrices
from ..costs.stored import input_refusal
from ..data.texts import LabeledTexts
from ..engines.agreement import Check
from ..engines.record import EngineRecord
from ..engines.session import Activations, Engine, check_activations, engine, exporting_format, rules_of
from ..errors import InputFileError, QbertOptWarning, UsageError
from ..formats.hub_names import CONFIG_KEY, check_dtype, named
from ..formats.traced_model import TracedModel, traceable
from ..formats.writers.onnx import GRAPH
from ..models.head_counts import is_narrowed
from ..models.layers import is_linear
from ..models.loading import LoadedModel, load_model
from ..models.samples import TokenBatch
from ..models.tiers import in_tiers
from ..quantization.activation_quant import with_rounded_inputs
from ..runtime.files import atomic_folder, folder_bytes
from ..runtime.processor import sums_bytes_exactly
from ..runtime.progress import Progress, silent
from ..spec.allocation import Allocation
from ..spec.planned import PlannedActivation
from .attention_rounding import score_ranges, scores_may_be_rounded, with_rounded_scores
from .engine_folder import complete_folder
from .export_check import check_samples, checks_of, in_batches, longest_sample, repeated, within_memory
from .export_verdict import compared
from .input_fit import misfit

READ_AGAIN = 8  # samples on whose text an engine's own tokenizer is compared
DTYPE_FORMATS = ("onnx", "onnx-qnn")  # formats whose file is named after a dtype


def export_model(
    folder: str | Path,
    name: str,
    output: str | Path,
    *,
    texts: LabeledTexts | None = None,
    tolerance: float | None = None,
    activations: Activations | None = None,
    dtype: str | None = None,
    progress: Progress = silent,
) -> EngineRecord:
    """Export a quantized folder to an engine's files, run them, and compare the outputs with PyTorch's.

    The comparison uses up to 64 texts of the plan's scoring set, which the folder contains as token ids: once with
    activations in float32, where the outputs must agree, and once as exported. Rounded activations may cost 0.02 nats
    of KL per answer (for embeddings and regressions: 2 % of the squared length or variance), change 2 % of the decided
    answers (see `engines.agreement`), and change no logit by more than half of the largest. A planned range may lose
    half of the squared size of its inputs, so that a single wrong range cannot hide behind correct answers.

    Args:
        folder: a quantized folder.
        name: the engine.
        output: folder to write, completely or not at all.
        texts: for the comparison instead of the folder's own; if they are the scored data set, its scoring texts.
        tolerance: largest accepted loss per answer, instead of all limits above.
        activations: how matrix products round their inputs: `planned` in the static ranges of the plan (the fastest),
            `int8` in small blocks, `int8-coarse` in larger blocks (faster), `float32` not at all (as slow as a float
            model). By default the first of `planned` (if the plan rounds inputs), `int8` and `float32` that agrees.
        dtype: for ONNX, the dtype by which transformers.js selects the file, which determines its name; by default
            `fp32`, for `onnx/model.onnx`, as in other tools. Unrelated to the bit widths in the file.
        progress: called with steps done, number of steps, and the current step.

    Returns:
        The record that is written to `engine.json`.

    Warns:
        QbertOptWarning: by default, activations that would be faster do not agree; says by how much. Or the engine's
            sums of 8-bit products may saturate on this processor.

    Raises:
        UsageError: unknown engine, activations or dtype, engine not installed, a matrix or planned inputs that the
            engine cannot run, or no texts.
        InputFileError: a damaged folder, or outputs that do not agree with PyTorch's.
    """
    module = engine(name)
    exporting_format(name)
    if dtype is not None:
        _check_dtype(name, module, dtype)
    check_activations(activations)
    progress(0, 4, "reading")
    loaded, allocation = load_quantized(folder, round_inputs=False)  # engines round inputs themselves
    if activations == "planned" and not allocation.activations:
        raise UsageError("`activations` planned: the plan rounds no inputs. Plan with `activation_bits` 8.")
    data, samples = check_samples(Path(folder), loaded, allocation, texts)
    samples = within_memory(samples, loaded.head.columns)
    ways: tuple[Activations, ...] = ("planned", "int8", "float32") if allocation.activations else ("int8", "float32")
    if activations is not None:
        ways = (activations,)
    _check_runnable(name, module, loaded, allocation, planned="planned" in ways)
    traced = traceable(loaded, lean=True)
    batches = in_batches(samples)
    checks = checks_of(loaded, traced, batches)
    whole = checks_of(loaded, traced, [longest_sample(samples, loaded.longest)])
    refused: dict[str, str] = {}
    with atomic_folder(output) as target:
        for way in ways:
            planned = {m: item for item in allocation.activations for m in item.modules} if way == "planned" else {}
            fault = misfit(loaded, allocation.activations, samples) if planned and tolerance is None else None
            if fault is not None:
                if way == ways[-1]:
                    raise InputFileError(f"{folder}: {fault} Nothing was exported.")
                refused[way] = fault
                continue
            references, scores = checks, dict[str, tuple[float, float]]()
            if planned:
                rounded = replace(
                    loaded, model=with_rounded_inputs(copy.deepcopy(loaded.model), allocation.activations)
                )
                references = checks_of(rounded, traceable(rounded), batches)
                if module.RULES.static_scores:
                    scores, references = _with_scores(rounded, allocation, samples, batches, checks, references)
            progress(1, 4, f"converting, activations {way}")
            for left in target.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            _write(name, traced, folder, allocation, target, way, planned, scores)
            progress(2, 4, f"comparing with torch, activations {way}")
            outcome = compared(module, loaded.head.kind, target, way, checks, references, whole, allocation, tolerance)
            if outcome.refusal is None or math.isinf(outcome.graph_difference):
                break
            refused[way] = outcome.refusal
        if outcome.refusal is not None or outcome.agreement is None:
            raise InputFileError(f"{folder}: {outcome.refusal} Nothing was exported.")
        _check_reading(name, module, loaded, target, samples)
        for way_refused, reason in refused.items():
            warnings.warn(
                f"{output}: exported with activations {way} instead of {way_refused}: {reason}",
                QbertOptWarning,
                stacklevel=2,
            )
        if way == "planned" and module.RULES.saturates and not sums_bytes_exactly():
            warnings.warn(
                f"{output}: this processor has no VNNI, so {name} adds pairs of 8-bit products in 16 bits, which "
                "saturate. On processors with VNNI the answers are closer to PyTorch's than measured here.",
                QbertOptWarning,
                stacklevel=2,
            )
        exported_bytes = folder_bytes(target)
        progress(3, 4, "writing")
        extra = {}
        if module.FORMAT in DTYPE_FORMATS:
            graph = target / GRAPH
            graph.rename(named(graph, dtype or "fp32"))
            extra = {CONFIG_KEY: {"dtype": dtype or "fp32"}}
        record = complete_folder(
            target, name, folder, loaded, allocation, repeated(references), config=extra,
            inputs=traced.inputs, outputs=traced.outputs, exported_bytes=exported_bytes,
            activations=way, integer_scores=bool(scores), refused=refused, checked_on=data,
            agreement=outcome.agreement, graph_difference=outcome.graph_difference, limits=outcome.limits,
        )  # fmt: skip
    return record


def _check_dtype(name: str, module: Engine, dtype: str) -> None:
    if module.FORMAT not in DTYPE_FORMATS:
        raise UsageError(f"`dtype` {dtype}: names ONNX files; `engine` {name} has another format.")
    check_dtype(dtype)


def check_convertible(name: str, loaded: LoadedModel, modules: Iterable[str]) -> None:
    """Refuse a model that an engine's file cannot represent, however it is quantized.

    Args:
        name: the engine.
        loaded: the model.
        modules: names of its matrices.

    Raises:
        UsageError: one is a convolution, which no engine's file supports; names it. Or the word table is in tiers,
            heads are left out, or the model is a decoder.
    """
    decoder = loaded.head.kind == "next_tokens"
    if decoder and not rules_of(name).takes(decoder=True):
        raise UsageError(
            f"`engine` {name}: {loaded.name} is a decoder, which its writer does not convert. Use `engine` "
            "llama-cpp, open the quantized folder with transformers' from_pretrained, or give the plan to another tool "
            "with export-config."
        )
    if in_tiers(loaded.model) and not rules_of(name).tables.tiers:
        raise UsageError(
            f"`engine` {name}: {loaded.name} has its table of words in tiers, and the file holds one table. Use "
            "`engine` onnxruntime or openvino."
        )
    if is_narrowed(loaded.model) and not rules_of(name).fewer_heads:
        raise UsageError(
            f"`engine` {name}: {loaded.name} has layers with fewer attention heads than others, and the file holds one "
            "number. Use `engine` onnxruntime or openvino."
        )
    for module in modules:
        if not is_linear(loaded.model.get_submodule(module)):
            raise UsageError(f"`engine` {name}: {module} is a convolution; only torch runs it from its codes.")


def _check_runnable(name: str, module: Engine, loaded: LoadedModel, allocation: Allocation, *, planned: bool) -> None:
    """Raise UsageError for a matrix that the engine cannot run, or for a planned input if those were requested."""
    check_convertible(name, loaded, [matrix.module for matrix in allocation.matrices])
    for matrix in allocation.matrices:
        refusal = module.RULES.refusal(matrix.choice)
        if refusal is not None:
            raise UsageError(f"`engine` {name}: {matrix.module}: cannot run {refusal}. Plan again for this engine.")
    refusal = input_refusal(allocation.activations, module.RULES) if planned else None
    if refusal is not None:
        raise UsageError(
            f"`engine` {name}: {refusal}. Plan again for this engine, or let it round inputs in its own way with "
            "`activations` int8."
        )


def _check_reading(name: str, module: Engine, loaded: LoadedModel, target: Path, samples: Sequence[TokenBatch]) -> None:
    """Raise UsageError if an engine's own tokenizer splits one of the samples differently, as it is or in capitals."""
    misread = getattr(module, "misread", None)
    if misread is None:
        return
    read = loaded.tokenizer
    small = [read.decode(sample.inputs["input_ids"][0], skip_special_tokens=True) for sample in samples[:READ_AGAIN]]
    texts = [text for text in (*small, *(text.upper() for text in small)) if text]
    ids = [read(text, truncation=True, max_length=loaded.longest)["input_ids"] for text in texts]
    found = misread(target, zip(texts, ids, strict=True))
    if found is not None:
        raise UsageError(
            f"`engine` {name}: its own tokenizer splits {found[:80]!r} differently from the model's. Use `engine` "
            "onnxruntime or openvino. Nothing was exported."
        )


def _write(
    name: str,
    traced: TracedModel,
    folder: str | Path,
    allocation: Allocation,
    target: Path,
    activations: Activations,
    planned: Mapping[str, PlannedActivation],
    scores: Mapping[str, tuple[float, float]],
) -> None:
    more = {"scores": scores} if scores else {}  # formats of engines that have no such scores need not know of them
    exporting_format(name).write(traced, read_matrices(folder, allocation), target, activations, planned, **more)


def _with_scores(
    rounded: LoadedModel,
    allocation: Allocation,
    samples: Sequence[TokenBatch],
    batches: Sequence[TokenBatch],
    checks: Sequence[Check],
    references: list[Check],
) -> tuple[dict[str, tuple[float, float]], list[Check]]:
    """Ranges of 8-bit queries and keys, found on every other sample, and torch's outputs with them.

    No ranges, and the references unchanged, if 8-bit attention scores would change answers.
    """
    ranges = score_ranges(rounded, allocation, samples[::2])
    if not ranges:
        return {}, references
    model = with_rounded_scores(rounded, ranges)
    answers = checks_of(model, traceable(model), batches)
    if not scores_may_be_rounded(rounded.head.kind, checks, references, answers):
        return {}, references
    return ranges, answers


def export_float(model: str | Path | LoadedModel, name: str, output: str | Path) -> Path:
    """Export a float model to an engine's files, for comparison, without record, checks and tokenizer.

    Args:
        model: model folder, or a loaded model.
        name: the engine.
        output: folder to write.

    Returns:
        The folder.

    Raises:
        UsageError: unknown engine, it is not installed, or it cannot run the model.
        InputFileError: a damaged model folder.
    """
    loaded = model if isinstance(model, LoadedModel) else load_model(model)
    with atomic_folder(output) as target:
        exporting_format(name).write(traceable(loaded), (), target)
    return Path(output)
