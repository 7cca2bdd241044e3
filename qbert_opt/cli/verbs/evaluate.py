"""`qbert-opt evaluate`: measure the quality of a model or a quantized folder."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import options

if TYPE_CHECKING:
    from ...data.texts import LabeledTexts


def command(
    folder: Annotated[str, typer.Argument(help="A quantized folder, or a model folder.")],
    data: options.Data,
    reference: Annotated[
        str | None, typer.Option("--reference", help="Float model folder to compare outputs with.")
    ] = None,
    text_column: options.TextColumn = None,
    label_column: options.LabelColumn = None,
    split: options.Split = None,
    max_tokens: options.MaxTokens = None,
    engine: Annotated[
        str | None, typer.Option("--engine", help="Also time the model in this engine: torch, openvino or onnxruntime.")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads of the engine.")] = 1,
    seq_len: Annotated[int, typer.Option("--seq-len", min=1, help="Tokens per timed run.")] = 128,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, as read by --measured of report and pareto.")
    ] = False,
) -> None:
    """Measure quality (accuracy, F1, entity F1, exact match) and loss relative to a reference on held-out text.

    Examples:
    `qbert-opt evaluate out --data snips/test --reference models/minilm-snips`

    `qbert-opt evaluate slots --data snips/test --label-column tags --reference models/minilm-slots`
    """
    from ...checkpoint.reader import folder_bytes, is_quantized, load_quantized
    from ...data.texts import read_texts
    from ...engines.record import is_exported
    from ...engines.timing import time_model
    from ...evaluation.evaluate import comparable, evaluate, reference_outputs
    from ...models.loading import cut_at, load_model
    from ...reports.evaluation import cut_lines, evaluation_table
    from ...reports.printing import print_lines
    from ...serving.engine_model import serve, timing_rows

    texts = read_texts(data, text_columns=text_column, label_column=label_column, split=split)
    plan = None
    served = None
    if engine is not None or is_exported(folder):
        served = serve(folder, engine, threads=threads)
        subject, plan = served.loaded, served.allocation
    elif is_quantized(folder):
        subject, plan = load_quantized(folder)
    else:
        subject = load_model(folder)
    subject = cut_at(subject, max_tokens)
    rows = []
    truth = None
    if reference is not None:
        original = load_model(reference)
        if plan is not None:
            from ...checkpoint.record import check_belongs

            check_belongs(plan, original)
        subject, original = comparable(subject, cut_at(original, max_tokens))
        truth = reference_outputs(original, subject, texts)
        rows.append((reference, evaluate(original, texts), f"{folder_bytes(reference):,}", "-"))
    evaluation = evaluate(subject, texts, truth)
    trained = _trained_on(folder, texts)
    void = plan is None or plan.loss_unit != evaluation.loss_unit or trained
    predicted = "-" if plan is None or void else f"{plan.predicted_loss:.3g}"
    size = folder_bytes(folder) if served is None else served.stored_bytes
    rows.append((folder, evaluation, f"{size:,}", predicted))
    timings = []
    if served is not None:
        shape = {"seq_len": min(seq_len, subject.tokenizer.model_max_length), "threads": threads}
        timings = [(folder, time_model(served.folder, **shape))]
        if reference is not None:
            timings.insert(0, (reference, time_model(reference, **shape)))
    if as_json:
        from pydantic import TypeAdapter

        from ...evaluation.evaluate import Evaluation
        from ...planning.measured_points import SCHEMA, MeasuredPoint, MeasuredPoints

        points = []
        if evaluation.loss is not None:
            point = MeasuredPoint(
                name=Path(folder).name or folder,
                loss=evaluation.loss.value,
                low=min(evaluation.loss.low, evaluation.loss.value),
                high=max(evaluation.loss.high, evaluation.loss.value),
                encoder_bytes=None if plan is None else plan.encoder_bytes,
                latency_s=timings[-1][1].median_wall_s if timings else None,
            )
            points.append(point)
        what = f"{evaluation.loss_unit} against {reference} on {len(texts)} texts of {texts.name}"
        measured = MeasuredPoints(schema=SCHEMA, what=what, points=tuple(points))
        document = json.loads(measured.model_dump_json(by_alias=True, exclude_none=True))
        document |= json.loads(TypeAdapter(Evaluation).dump_json(evaluation))
        if timings:
            document["timing"] = {name: asdict(t) for name, t in timings}
        typer.echo(json.dumps(document, indent=1))
        return
    lost = cut_lines([measured for _, measured, _, _ in rows])
    print_lines([evaluation_table(rows, f"{len(texts)} texts of {texts.name}"), *lost])
    if not timings:
        return
    print_lines(timing_rows(timings, None if plan is None or plan.device is None else plan.device.latency_s))


def _trained_on(folder: str, texts: LabeledTexts) -> bool:
    """Whether training changed a folder's codes, so that the plan's predicted loss no longer applies.

    Warns:
        QbertOptWarning: the folder was trained on the texts that it is evaluated on.
    """
    import warnings

    from ...checkpoint.reader import is_quantized
    from ...checkpoint.record import read_record
    from ...engines.record import is_exported
    from ...errors import QbertOptWarning

    training = read_record(Path(folder)).training if is_quantized(folder) and not is_exported(folder) else None
    if training is not None and texts.sha256 in training.drawn_from:
        warnings.warn(
            f"{texts.name}: {folder} was trained on this text, so the results are too good. Give held-out text.",
            QbertOptWarning,
            stacklevel=2,
        )
    return training is not None
