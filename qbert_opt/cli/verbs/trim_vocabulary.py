"""`qbert-opt trim-vocabulary`: leave out the rows of a model's tables that its texts never use."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import options, quantities


def command(
    *,
    model: options.Model,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", help="Texts like those in deployment, whose pieces are kept; repeatable."),
    ] = None,
    words: Annotated[
        str | None,
        typer.Option(
            "--words", help="File of words to keep with all their pieces, one per line; also pieces as ##ing."
        ),
    ] = None,
    min_count: Annotated[
        int,
        typer.Option("--min-count", min=0, help="How often the texts must use a piece for it to be kept; 0 keeps all."),
    ] = 1,
    tiers: Annotated[
        str | None,
        typer.Option(
            "--tiers", help="Shares of the most used rows with bits of their own: 20%, or 5%,15%; then the rest."
        ),
    ] = None,
    test_data: Annotated[
        str | None,
        typer.Option("--test-data", help="Held-out text on which to measure how tokens and answers change."),
    ] = None,
    output: Annotated[str, typer.Option("--output", "-o", help="Model folder to write.")],
    columns: options.TextOptions,
) -> None:
    """Remove the rows of a model's embedding tables that texts and words never use, and rewrite the tokenizer.

    The result is an ordinary model folder. Texts whose pieces are all kept are tokenized and answered exactly as
    before; other words split into smaller pieces, and no known character becomes unknown. row_map.json in the folder
    maps each row to its old row.

    With --tiers, the most used rows come first, and sensitivity, solve and quantize treat each tier as a table of its
    own, with its own bits; --min-count 0 removes no row.

    Examples:
    `qbert-opt trim-vocabulary --model models/minilm-snips --data snips/dev --test-data snips/test -o smaller`

    `qbert-opt trim-vocabulary --model models/minilm-snips --data train.tsv --words commands.txt -o smaller`

    `qbert-opt trim-vocabulary --model models/minilm-snips --data train.tsv --min-count 0 --tiers 20% -o tiers`
    """
    from ...data.word_lists import read_words
    from ...errors import UsageError
    from ...models.loading import load_model
    from ...reports.evaluation import cut_lines, measured_table
    from ...reports.printing import print_lines
    from ...reports.vocabulary import vocabulary_lines
    from ...serving.measuring import measure_folder
    from ...workflows.trim_vocabulary import trim_vocabulary

    if not data and words is None:
        raise UsageError("--data, --words: neither is given, so no piece would be kept. Give texts or a list of words.")
    shares = () if tiers is None else quantities.shares(tiers, "--tiers")
    texts = [columns.read(name) for name in data or ()]
    listed = () if words is None else read_words(words)
    held_out = None if test_data is None else columns.read_other(test_data)
    loaded = load_model(model)
    trimmed = trim_vocabulary(
        loaded, texts, output, words=listed, min_count=min_count, tiers=shares, test_data=held_out
    )
    print_lines(vocabulary_lines(trimmed, model))
    if held_out is not None:
        compared = loaded.head.kind != "vocabulary"  # such a model's outputs are now over other pieces
        measured = measure_folder(output, held_out, reference=model if compared else None)
        print_lines([measured_table(measured, held_out), *cut_lines([row.evaluation for row in measured])])
