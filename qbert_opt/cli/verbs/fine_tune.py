"""`qbert-opt fine-tune`: train a classifier, tagger or span extractor from an encoder and labelled text."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import options
from ..progress import progress


def command(
    *,
    encoder: Annotated[str, typer.Option("--encoder", help="Folder of a pre-trained encoder.")],
    data: options.Data,
    output: Annotated[str, typer.Option("--output", "-o", help="Model folder to write.")],
    kind: Annotated[str, typer.Option("--kind", help="Kind of output: classes, tags or spans.")] = "classes",
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over the training text.")] = 2,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Peak learning rate.")] = 8e-5,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Texts per batch.")] = 64,
    batches_per_update: options.BatchesPerUpdate = 1,
    loss: Annotated[
        str, typer.Option("--loss", help="cross-entropy, or dice for imbalanced classes and tags.")
    ] = "cross-entropy",
    columns: options.TextOptions,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
) -> None:
    """Fine-tune an encoder for text classification, word tagging or span extraction.

    Examples:
    `qbert-opt fine-tune --encoder DIR --data snips/train -o models/minilm-snips`

    `qbert-opt fine-tune --encoder DIR --data snips/train --label-column tags --kind tags -o models/minilm-slots`
    """
    from ...errors import InputFileError
    from ...runtime.distributed import processes
    from ...runtime.plain_text import one_line
    from ...training.fine_tuning import fine_tune

    texts = columns.read(data)
    if texts.labels is None:
        raise InputFileError(f"{data}: has no label column; fine-tuning needs labels.")
    with processes() as team, progress("fine-tuning", quiet=quiet or team.rank > 0) as tell:
        fine_tune(
            encoder,
            texts,
            output,
            kind=kind,  # type: ignore[arg-type]
            epochs=epochs,
            learning_rate=learning_rate,
            batch_size=batch_size,
            batches_per_update=batches_per_update,
            loss=loss,
            seed=seed,
            processes=team,
            progress=lambda done, total, mean: tell(done, total, f"loss {mean:.3f}"),
        )
    if team.rank == 0:
        typer.echo(f"{one_line(output)}: fine-tuned on {len(texts)} texts of {one_line(texts.name)}")
