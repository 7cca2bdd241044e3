"""Export a quantized folder to an engine's files, accepted only if the outputs agree with PyTorch's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn

from ..checkpoint.reader import load_quantized, read_matrices
from ..checkpoint.record import PLAN
from ..data.texts import LabeledTexts, read_texts
from ..engines.record import CHECKS, RECORD, EngineRecord, check_session, checks, write_record
from ..engines.session import ACTIVATIONS, Activations, Arrays, engine, exporting_format
from ..errors import InputFileError, UsageError
from ..formats.traced_model import TracedModel, traceable
from ..models.loading import LoadedModel, load_model
from ..quantization.activation_quant import with_rounded_inputs
from ..runtime.files import atomic_folder
from ..runtime.manifest import file_hashes
from ..runtime.progress import Progress, silent
from ..runtime.provenance import code_version
from ..spec.allocation import write_allocation

TOLERANCE = 2e-2  # max |output - reference| / max |reference|: integer products round their inputs to 8 bits
# static ranges have coarse steps: torch itself differs by this much when padding changes the order of its sums
PLANNED_TOLERANCE = 5e-2
EXACT_TOLERANCE = 1e-3  # in float32 only the order of sums may differ; a larger difference means a wrong graph
CHECK_TEXTS = 16


def export_model(
    folder: str | Path,
    name: str,
    output: str | Path,
    *,
    texts: LabeledTexts | None = None,
    tolerance: float | None = None,
    activations: Activations | None = None,
    progress: Progress = silent,
) -> EngineRecord:
    """Export a quantized folder to an engine's files, run them, and compare the outputs with PyTorch's on real texts.

    Args:
        folder: a quantized folder.
        name: the engine.
        output: folder to write, completely or not at all.
        texts: for the comparison; by default a few of the bundled texts.
        tolerance: largest accepted max |output - reference| / max |reference|; by default 0.05 for `planned`
            activations, else 0.02.
        activations: how matrix products round their inputs: `planned` in the static ranges of the plan (the fastest),
            `int8` in small blocks, `int8-coarse` in larger blocks (faster), `float32` not at all (as slow as a float
            model). By default `planned` if the plan rounds inputs, else `int8`.
        progress: called with steps done, number of steps, and the current step.

    Returns:
        The record that is written to `engine.json`.

    Raises:
        UsageError: unknown engine or activations, engine not installed, or a matrix or planned inputs that the engine
            cannot run.
        InputFileError: a damaged folder, or outputs that differ from PyTorch's by more than the tolerance.
    """
    module, writer = engine(name), exporting_format(name)
    if activations not in (None, *ACTIVATIONS):
        raise UsageError(f"`activations` {activations}: legal: {', '.join(ACTIVATIONS)}.")
    progress(0, 4, "reading")
    loaded, allocation = load_quantized(folder, round_inputs=False)  # engines round inputs themselves
    for matrix in allocation.matrices:
        if not isinstance(loaded.model.get_submodule(matrix.module), nn.Linear):
            raise UsageError(f"`engine` {name}: {matrix.module} is a convolution; only torch runs it from its codes.")
        refusal = module.RULES.refusal(matrix.choice)
        if refusal is not None:
            raise UsageError(f"`engine` {name}: {matrix.module}: cannot run {refusal}. Plan again for this engine.")
    if activations is None:
        activations = "planned" if allocation.activations else "int8"
    if activations == "planned" and not allocation.activations:
        raise UsageError("`activations` planned: the plan rounds no inputs. Plan with `activation_bits` 8.")
    planned = {name: item for item in allocation.activations for name in item.modules}
    inputs = planned if activations == "planned" else {}
    if tolerance is None:
        tolerance = PLANNED_TOLERANCE if inputs else TOLERANCE
    traced = traceable(loaded)
    with atomic_folder(output) as target:
        progress(1, 4, "converting")
        writer.write(traced, read_matrices(folder, allocation), target, activations, inputs)
        exported = sorted(target.iterdir())
        exported_bytes = sum(file.stat().st_size for file in exported)
        progress(2, 4, "comparing with torch")
        if texts is None:
            texts = read_texts("snips/dev")
        batches = checks(reference_batches(loaded, traced, texts))
        graph_error = check_session(module.open_model(target, activations="float32"), batches)
        if inputs:
            with_rounded_inputs(loaded.model, allocation.activations)
            batches = checks(reference_batches(loaded, traced, texts))
        worst = check_session(module.open_model(target, activations=activations), batches)
        if not graph_error <= EXACT_TOLERANCE or not worst <= tolerance:
            hint = "This is a bug in the export; please report it."
            if graph_error <= EXACT_TOLERANCE:
                hint = (
                    f"Rounding activations ({activations}) is felt by this model: `activations` float32 leaves them as "
                    "they are, `tolerance` accepts more."
                )
            raise InputFileError(
                f"{folder}: {module.label()} answers otherwise than torch: max |difference| / max |reference| is "
                f"{worst:.2g}, allowed {tolerance:g} (in float32 {graph_error:.2g}). Nothing was exported. {hint}"
            )
        progress(3, 4, "writing")
        save_file(batches, target / CHECKS)
        write_allocation(allocation, target / PLAN)
        loaded.tokenizer.save_pretrained(target)
        (target / "config.json").write_text(
            json.dumps(loaded.model.config.to_dict(), indent=1, default=str) + "\n", encoding="utf-8"
        )
        record = EngineRecord(
            version=code_version(),
            engine=name,
            engine_label=module.label(),
            source_sha256=allocation.profile.sha256,
            inputs=traced.inputs,
            outputs=traced.outputs,
            max_tokens=loaded.longest,
            labels=loaded.labels,
            files=file_hashes(target, RECORD),
            source_bytes=allocation.total_bytes,
            exported_bytes=exported_bytes,
            activations=activations,
            difference=worst,
            graph_difference=graph_error,
            tolerance=tolerance,
        )
        write_record(record, target)
    return record


def export_float(model: str | Path, name: str, output: str | Path) -> Path:
    """Export a float model to an engine's files, for comparison; without record, checks and tokenizer.

    Args:
        model: model folder.
        name: the engine.
        output: folder to write.

    Returns:
        The folder.

    Raises:
        UsageError: unknown engine, or it is not installed.
        InputFileError: a damaged model folder.
    """
    loaded = load_model(model)
    with atomic_folder(output) as target:
        exporting_format(name).write(traceable(loaded), (), target)
    return Path(output)


def reference_batches(loaded: LoadedModel, traced: TracedModel, texts: LabeledTexts) -> list[tuple[Arrays, Arrays]]:
    """Return inputs and PyTorch's outputs: single texts, a padded batch, and one text of the model's full length.

    Args:
        loaded: the model.
        traced: the same model as converters take it.
        texts: real texts.
    """
    chosen = [text for text in texts.texts if len(text) == len(texts.texts[0])][:CHECK_TEXTS]
    whole = tuple(" ".join(text[i] for text in chosen) for i in range(len(chosen[0])))
    batches = []
    for group in [*([text] for text in chosen[: CHECK_TEXTS // 2]), chosen[CHECK_TEXTS // 2 :] or chosen, [whole]]:
        parts = [list(part) for part in zip(*group, strict=True)]
        encoded = loaded.tokenizer(
            *parts, padding=True, truncation=True, max_length=loaded.longest, return_tensors="pt"
        )
        with torch.no_grad():
            answers = traced.module(*(encoded[name] for name in traced.inputs))
        outputs = {name: answer.numpy() for name, answer in zip(traced.outputs, answers, strict=True)}
        batches.append(({name: np.asarray(encoded[name]) for name in traced.inputs}, outputs))
    return batches
