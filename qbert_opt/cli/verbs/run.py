"""`qbert-opt run`: predictions of a quantized or exported model."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from .. import options


def command(
    folder: Annotated[str, typer.Argument(help="A quantized folder, or one exported to an engine.")],
    text: Annotated[list[str] | None, typer.Option("--text", help="Text to classify; repeatable.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="File of texts to classify.")] = None,
    text_column: options.TextColumn = None,
    split: options.Split = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine", help="torch, openvino, onnxruntime, llama-cpp, litert or integer; by default the folder's."
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with the probability of every label.")] = False,
) -> None:
    """Print the predicted label and its probability for each text.

    Example: `qbert-opt run out --text "turn the light on"`
    """
    from ...data.texts import read_texts
    from ...errors import UsageError
    from ...runtime.plain_text import one_line
    from ...serving.predictor import Predictor

    if bool(text) == (data is not None):
        raise UsageError("run: give either texts with --text or a file with --data.")
    if text:
        texts: list[tuple[str, ...]] = [(one,) for one in text]
    else:
        texts = list(read_texts(str(data), text_columns=text_column, split=split).texts)
    predictions = Predictor(folder, engine, threads=threads).predict(texts)
    if as_json:
        rows = [
            {"text": one[0] if len(one) == 1 else one, "label": p.label, "probability": p.probability,
             "probabilities": p.probabilities}
            for one, p in zip(texts, predictions, strict=True)
        ]  # fmt: skip
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    for one, p in zip(texts, predictions, strict=True):
        typer.echo("\t".join(map(one_line, (p.label, f"{p.probability:.4f}", " | ".join(one)))))
