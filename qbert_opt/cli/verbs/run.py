"""`qbert-opt run`: predictions, vectors or similarities of a quantized or exported model."""

from __future__ import annotations

import json
from itertools import combinations
from typing import TYPE_CHECKING, Annotated

import typer

from .. import options

if TYPE_CHECKING:
    from ...serving.predictor import Predictor


def command(
    folder: Annotated[str, typer.Argument(help="A quantized folder, or one exported to an engine.")],
    text: Annotated[list[str] | None, typer.Option("--text", help="Text to run; repeatable.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="File of texts or pairs to run.")] = None,
    text_column: options.TextColumn = None,
    split: options.Split = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine", help="torch, openvino, onnxruntime, llama-cpp, litert or integer; by default the folder's."
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads.")] = None,
    similarity: Annotated[
        bool,
        typer.Option("--similarity", help="For an encoder: print the cosine of every two texts instead of vectors."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with the probability of every label.")] = False,
) -> None:
    """Print each text's predicted label and its probability, or for an encoder without a head, the text's vector.

    The vector is pooled, and normalized if the model's folder says so. For pairs of texts, the cosine is printed.

    Examples:
    `qbert-opt run out --text "turn the light on"`

    `qbert-opt run encoder --text "turn the light on" --text "switch on the lamp" --similarity`
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
    predictor = Predictor(folder, engine, threads=threads)
    if predictor.kind == "embeddings":
        _print_vectors(predictor, texts, similarity, as_json)
        return
    if similarity:
        raise UsageError(f"`similarity`: {folder} answers with {predictor.kind}, not with vectors of texts.")
    predictions = predictor.predict(texts)
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


def _print_vectors(predictor: Predictor, texts: list[tuple[str, ...]], similarity: bool, as_json: bool) -> None:
    """Print the vector of each text, or the cosine of each pair."""
    from ...errors import UsageError
    from ...runtime.plain_text import one_line

    paired = any(len(one) == 2 for one in texts)
    if similarity and paired:
        raise UsageError("`similarity`: the texts of a pair are compared anyway. Leave it out.")
    if similarity and len(texts) < 2:
        raise UsageError("`similarity`: needs two texts or more.")
    if not (similarity or paired):
        vectors = predictor.embed([one for (one,) in texts])
        if as_json:
            rows = [{"text": one, "vector": v.tolist()} for (one,), v in zip(texts, vectors, strict=True)]
            typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
            return
        for (one,), vector in zip(texts, vectors, strict=True):
            typer.echo("\t".join([one_line(one), *(f"{number:.6g}" for number in vector)]))
        return
    pairs = [(a, b) for a, b in texts] if paired else list(combinations([one for (one,) in texts], 2))
    cosines = predictor.similarities(pairs)
    if as_json:
        found = [{"texts": pair, "cosine": cosine} for pair, cosine in zip(pairs, cosines, strict=True)]
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    for pair, cosine in zip(pairs, cosines, strict=True):
        typer.echo("\t".join([f"{cosine:.4f}", *map(one_line, pair)]))
