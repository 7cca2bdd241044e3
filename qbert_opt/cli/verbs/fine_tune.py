"""`qbert-opt fine-tune`: an encoder and labelled text to a classifier."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import options
from ..progress import progress


def command(
    encoder: Annotated[str, typer.Option("--encoder", help="Folder of a pre-trained encoder.")],
    data: options.Data,
    output: Annotated[str, typer.Option("--output", "-o", help="Model folder to write.")],
    epochs: Annotated[int, typer.Option("--epochs", min=1)] = 2,
    learning_rate: Annotated[float, typer.Option("--learning-rate")] = 8e-5,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1)] = 64,
    text_column: options.TextColumn = None,
    label_column: options.LabelColumn = None,
    split: options.Split = None,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
) -> None:
    """Fine-tune an encoder as a text classifier, to reproduce this project's figures.

    Example: `qbert-opt fine-tune --encoder DIR --data snips/train -o models/minilm-snips`
    """
    from ...errors import InputFileError
    from ...texts import read_texts
    from ...training import fine_tune

    texts = read_texts(data, text_columns=text_column, label_column=label_column, split=split)
    if texts.labels is None:
        raise InputFileError(f"{data}: has no label column; fine-tuning needs labels.")
    with progress("fine-tuning", quiet=quiet) as tell:
        fine_tune(
            encoder,
            texts,
            output,
            epochs=epochs,
            learning_rate=learning_rate,
            batch_size=batch_size,
            seed=seed,
            progress=lambda done, total, loss: tell(done, total, f"loss {loss:.3f}"),
        )
    typer.echo(f"{output}: fine-tuned on {len(texts)} texts of {texts.name}")
