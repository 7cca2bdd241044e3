"""`qbert-opt evaluate`: measured quality of a model or a quantized folder."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import options


def command(
    folder: Annotated[str, typer.Argument(help="A quantized folder, or a model folder.")],
    data: options.Data,
    reference: Annotated[
        str | None, typer.Option("--reference", help="Model folder that the answers are compared with.")
    ] = None,
    text_column: options.TextColumn = None,
    label_column: options.LabelColumn = None,
    split: options.Split = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure quality (accuracy, F1, entity F1, exact match) and loss against the reference on unseen text.

    Examples:
    `qbert-opt evaluate out --data snips/test --reference models/minilm-snips`

    `qbert-opt evaluate slots --data snips/test --label-column tags --reference models/minilm-slots`
    """
    from ...evaluation import evaluate, outputs
    from ...models.loading import load_model
    from ...packing.artifact import folder_bytes, is_quantized, load_quantized
    from ...report import evaluation_table, print_lines
    from ...texts import read_texts

    texts = read_texts(data, text_columns=text_column, label_column=label_column, split=split)
    plan = None
    if is_quantized(folder):
        subject, plan = load_quantized(folder)
    else:
        subject = load_model(folder)
    rows = []
    truth = None
    if reference is not None:
        original = load_model(reference)
        if plan is not None:
            from ...packing.artifact import check_belongs

            check_belongs(plan, original)
        truth = outputs(original, texts)
        rows.append((reference, evaluate(original, texts), f"{folder_bytes(reference):,}", "-"))
    found = evaluate(subject, texts, truth)
    predicted = "-" if plan is None or plan.loss_unit != found.loss_unit else f"{plan.predicted_loss:.4f}"
    rows.append((folder, found, f"{folder_bytes(folder):,}", predicted))
    if as_json:
        from pydantic import TypeAdapter

        from ...evaluation import Evaluation

        typer.echo(TypeAdapter(Evaluation).dump_json(found, indent=1).decode())
        return
    print_lines([evaluation_table(rows, f"{len(texts)} texts of {texts.name}")])
