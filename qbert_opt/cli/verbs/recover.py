"""`qbert-opt recover`: train a quantized model to match the float model."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from .. import options
from ..progress import progress


def command(
    *,
    source: Annotated[str, typer.Argument(metavar="PLAN_OR_FOLDER", help="An allocation.json, or a quantized folder.")],
    model: options.Model,
    data: Annotated[list[str], typer.Option("--data", help="Training text; repeatable.")],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder to write.")],
    steps: Annotated[
        str, typer.Option("--steps", help="Training steps, in order: ranges, blocks, distill.")
    ] = "blocks,distill",
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="A paper's training in place of ours: qbert, kdlsq, ternarybert or xtc."),
    ] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", help="Approximate training time, in minutes.")] = None,
    epochs: Annotated[
        str | None, typer.Option("--epochs", help="Passes over the text per step: 2, or blocks:3,distill:1.5.")
    ] = None,
    losses: Annotated[
        str,
        typer.Option(
            "--losses",
            help="Losses of steps ranges and distill, with weights if not 1: logits,hidden:0.5; see docs/plug-ins.md.",
        ),
    ] = "logits,last-hidden",
    block_error: Annotated[
        str, typer.Option("--block-error", help="Weighting of tokens in a block's error: plain or sensitivity.")
    ] = "plain",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Texts per batch.")] = 32,
    held_back: Annotated[
        int, typer.Option("--held-back", min=1, help="Number of held-out texts for choosing the best state.")
    ] = 512,
    tables: Annotated[bool, typer.Option("--tables", help="Train the embedding tables too.")] = False,
    teacher_cache: Annotated[
        str | None,
        typer.Option(
            "--teacher-cache",
            help="Store this share of the float model's states on disk for steps ranges and distill: 10%.",
        ),
    ] = None,
    columns: options.TextOptions,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
) -> None:
    """Train a quantized model to match the outputs of the float model; its size stays as planned.

    If the plan's quantizer needs a calibration set, include the text of the plan's scores in the training texts. A run
    that was killed resumes when it is started again with the same options; Ctrl-C writes the best state so far.

    Examples:
    `qbert-opt recover out --model models/minilm-snips --data train.tsv --minutes 20 -o recovered`

    `qbert-opt recover allocation.json --model models/minilm-snips --data train.tsv --recipe kdlsq -o compared`

    `qbert-opt recover allocation.json --model models/minilm-snips --data snips/dev --data train.tsv -o recovered`
    """
    from ...errors import UsageError
    from ...models.loading import load_model
    from ...reports.printing import print_lines
    from ...reports.recovery import recovery_lines
    from ...training.recipes import recipe as recipe_settings
    from ...training.settings import RecoverySettings
    from ...workflows.recover import recover
    from ..quantities import listed, share, weights

    if recipe is None:
        base = RecoverySettings(
            steps=listed(steps, "--steps"), losses=weights(losses, "--losses"), block_error=block_error
        )
    else:
        base = recipe_settings(recipe)
    settings = replace(
        base,
        epochs={} if epochs is None else _epochs(epochs, base.steps),
        batch_size=batch_size,
        held_back=held_back,
        tables=tables,
        teacher_cache=None if teacher_cache is None else share(teacher_cache, "--teacher-cache"),
        seed=seed,
    )
    if twice := [name for number, name in enumerate(data) if name in data[:number]]:
        raise UsageError(f"--data {twice[0]}: is given twice. Keep one of them.")
    texts = [columns.read(name) for name in data]
    with progress("training", quiet=quiet) as tell:
        recovered = recover(load_model(model), source, texts, output, settings=settings, minutes=minutes, progress=tell)
    print_lines(recovery_lines(recovered))


def _epochs(text: str, steps: tuple[str, ...]) -> dict[str, float]:
    """Parse `2` (for every step) or `blocks:3,distill:1.5` into epochs by step.

    Raises:
        UsageError: the text is neither.
    """
    from ...errors import UsageError

    epochs: dict[str, float] = {}
    for part in text.split(","):
        step, _, number = part.rpartition(":")
        try:
            value = float(number)
        except ValueError:
            raise UsageError(
                f"--epochs {text}: {number.strip()!r} is not a number. Give 2, or blocks:3,distill:1.5."
            ) from None
        named = (step.strip(),) if step else steps
        for name in named:
            if name in epochs:
                raise UsageError(f"--epochs {text}: {name} has {epochs[name]:g} already. Keep one of them.")
            if name not in steps:
                raise UsageError(f"--epochs {text}: {name} is not in --steps {','.join(steps)}.")
            epochs[name] = value
    return epochs
