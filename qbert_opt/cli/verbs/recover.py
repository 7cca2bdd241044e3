"""`qbert-opt recover`: train a quantized model to match the float model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from .. import options
from ..progress import progress

if TYPE_CHECKING:
    from ...training.settings import RecoverySettings


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """How to train."""

    steps: Annotated[str, typer.Option("--steps", help="Training steps, in order: ranges, blocks, distill.")] = "blocks"
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="Train as in a paper instead: qbert, kdlsq, ternarybert or xtc."),
    ] = None
    epochs: Annotated[
        str | None, typer.Option("--epochs", help="Passes over the text per step: 2, or blocks:3,distill:1.5.")
    ] = None
    rates: Annotated[
        str | None,
        typer.Option(
            "--rates",
            help="Learning rates of weights and of ranges per step, if not the step's own: blocks:6e-4:3e-4.",
        ),
    ] = None
    losses: Annotated[
        str,
        typer.Option(
            "--losses",
            help="Losses of steps ranges and distill, with weights if not 1: logits,hidden:0.5; see docs/plug-ins.md.",
        ),
    ] = "logits,last-hidden"
    block_error: Annotated[
        str, typer.Option("--block-error", help="Weighting of tokens in a block's error: plain or sensitivity.")
    ] = "plain"
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Texts per batch.")] = 32
    batches_per_update: options.BatchesPerUpdate = 1
    held_back: Annotated[
        int | None,
        typer.Option(
            "--held-back",
            min=1,
            help="Number of held-out texts for choosing the best state; by default 512, or an eighth if less.",
        ),
    ] = None
    tables: Annotated[bool, typer.Option("--tables", help="Train the embedding tables too.")] = False
    teacher_cache: Annotated[
        str | None,
        typer.Option(
            "--teacher-cache",
            help="Store this share of the float model's states on disk for steps ranges and distill: 10%.",
        ),
    ] = None
    nonlinearity: Annotated[
        str | None,
        typer.Option(
            "--nonlinearity",
            help="Train with softmax, GELU, tanh and LayerNorm as integer programs compute them: table, poly or shift, "
            "or by function, as in softmax=poly,norm=shift. Default: the real functions.",
        ),
    ] = None
    seed: options.Seed = 0

    def settings(self) -> RecoverySettings:
        """Return the settings of training.

        Raises:
            UsageError: names the option.
        """
        from ...training.recipes import recipe
        from ...training.settings import RecoverySettings
        from ..quantities import listed, share, weights

        if self.recipe is None:
            base = RecoverySettings(
                steps=listed(self.steps, "--steps"),
                losses=weights(self.losses, "--losses"),
                block_error=self.block_error,
            )
        else:
            base = recipe(self.recipe)
        return replace(
            base,
            epochs={} if self.epochs is None else _epochs(self.epochs, base.steps),
            rates={**base.rates, **({} if self.rates is None else _rates(self.rates, base.steps))},
            batch_size=self.batch_size,
            batches_per_update=self.batches_per_update,
            held_back=self.held_back,
            tables=self.tables,
            teacher_cache=None if self.teacher_cache is None else share(self.teacher_cache, "--teacher-cache"),
            nonlinearity=self.nonlinearity,
            seed=self.seed,
        )


def command(
    *,
    source: Annotated[str, typer.Argument(metavar="PLAN_OR_FOLDER", help="An allocation.json, or a quantized folder.")],
    model: options.Model,
    data: Annotated[list[str], typer.Option("--data", help="Training text; repeatable.")],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder to write.")],
    minutes: Annotated[float | None, typer.Option("--minutes", help="Approximate training time, in minutes.")] = None,
    training: TrainingOptions,
    columns: options.TextOptions,
    quiet: options.Quiet = False,
) -> None:
    """Train a quantized model to match the outputs of the float model; its size stays as planned.

    If the plan's quantizer needs a calibration set, include the text of the plan's scores in the training texts. A run
    that was killed resumes when it is started again with the same options; Ctrl-C writes the best state so far.
    Several processes share the batches of an update: `torchrun --nproc-per-node 2 -m qbert_opt recover …
    --batches-per-update 2`; the result is the same up to rounding.

    Examples:
    `qbert-opt recover out --model models/minilm-snips --data train.tsv --minutes 20 -o recovered`

    `qbert-opt recover allocation.json --model models/minilm-snips --data train.tsv --recipe kdlsq -o compared`

    `qbert-opt recover allocation.json --model models/minilm-snips --data snips/dev --data train.tsv -o recovered`
    """
    from ...errors import UsageError
    from ...models.loading import load_model
    from ...reports.printing import print_lines
    from ...reports.recovery import recovery_lines
    from ...runtime.distributed import processes
    from ...workflows.recover import recover

    settings = training.settings()
    if twice := [name for number, name in enumerate(data) if name in data[:number]]:
        raise UsageError(f"--data {twice[0]}: is given twice. Keep one of them.")
    texts = [columns.read(name) for name in data]
    with processes() as team, progress("training", quiet=quiet or team.rank > 0) as tell:
        recovered = recover(
            load_model(model), source, texts, output,
            settings=settings, minutes=minutes, progress=tell, processes=team,
        )  # fmt: skip
    if team.rank == 0:
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


def _rates(text: str, steps: tuple[str, ...]) -> dict[str, tuple[float, float]]:
    """Parse `blocks:6e-4:3e-4,distill:1e-3:3e-4` into rates of weights and ranges by step.

    Raises:
        UsageError: the text is not of that form.
    """
    from ...errors import UsageError

    rates: dict[str, tuple[float, float]] = {}
    for part in text.split(","):
        name, *numbers = (piece.strip() for piece in part.split(":"))
        try:
            weights, ranges = map(float, numbers)
        except ValueError:
            raise UsageError(
                f"--rates {text}: {part.strip()!r} is not of the form STEP:WEIGHTS:RANGES, e.g. blocks:6e-4:3e-4."
            ) from None
        if name in rates:
            raise UsageError(f"--rates {text}: {name} is named twice. Keep one of them.")
        if name not in steps:
            raise UsageError(f"--rates {text}: {name} is not among the steps {','.join(steps)}.")
        rates[name] = weights, ranges
    return rates
