"""Fine-tune an encoder on labelled texts, tagged words or answered questions: plain AdamW, linear warm-up and decay.

It exists so that every figure of this project can be reproduced from publicly available encoders; it does not replace a
training framework.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedModel

from ..data.texts import LabeledTexts
from ..errors import InputFileError, QbertOptWarning, UsageError
from ..models.folder_files import read_model_files
from ..models.heads import KINDS
from ..models.loading import AUTO_CLASSES, LoadedModel, load_tokenizer, quiet_transformers, tokenized
from ..models.outputs import OutputKind, answers
from ..models.samples import TokenBatch
from ..models.targets import Targets, read_targets
from ..runtime.distributed import Processes
from ..runtime.files import atomic_folder, check_folder
from .objective import loaded_loss
from .passes import Comparison, Pass, TrainingLoss
from .updates import batches_of, check_shared, num_updates, set_gradients

LAST = 0.25  # of the updates, whose mean loss counts as the final loss
WORSE = 1.1  # times the loss of answers at random: a small batch alone does not get there
TRAINABLE: tuple[OutputKind, ...] = tuple(kind for kind, head in KINDS.items() if head.trainable)


def fine_tune(
    encoder: str | Path,
    data: LabeledTexts,
    output: str | Path,
    *,
    kind: OutputKind = "classes",
    epochs: int = 2,
    learning_rate: float = 8e-5,
    batch_size: int = 64,
    batches_per_update: int = 1,
    loss: str = "cross-entropy",
    seed: int = 0,
    processes: Processes | None = None,
    progress: Callable[[int, int, float], None] = lambda done, total, loss: None,
) -> None:
    """Fine-tune `encoder` with a new head and write the model folder `output`.

    Args:
        encoder: folder of a pre-trained encoder; a head with as many outputs is trained further, others are replaced.
        data: labelled texts; the sorted names of their labels or tags become the head's outputs.
        output: folder to write, in safetensors.
        kind: output of the head: classes, tags of words, or spans of a text.
        epochs: passes over the data, at least 1.
        learning_rate: peak of the schedule (10 % linear warm-up, linear decay to 0).
        batch_size: samples per batch; batches hold sentences of similar length, in random order.
        batches_per_update: batches whose mean loss makes an update; several processes share them.
        loss: a training loss with labels: `cross-entropy`, or `dice` for imbalanced classes and tags.
        seed: of head initialisation, dropout and batch order.
        processes: those that train together, see `runtime.distributed`; the first one writes. By default one.
        progress: called after each update with updates done, their total, and the loss.

    Warns:
        QbertOptWarning: the training loss ends above that of answers at random.

    Raises:
        InputFileError: `encoder` is not a model folder, the labels do not suit `kind`, or all are the same.
        UsageError: `kind` cannot be fine-tuned, a number is out of its range, the loss is unknown, needs no labels or
            became infinite, or the processes cannot share the batches of an update equally.
        ValueError: `data` has no labels.
    """
    team, of_labels = processes or Processes(), loaded_loss(loss)
    if not of_labels.NEEDS_LABELS:
        raise UsageError(f"loss: {loss!r} compares with a teacher; fine-tuning has labels only.")
    check_shared(batches_per_update, team)
    files = read_model_files(encoder)
    source = files.folder
    check_folder(Path(output))  # before the work
    if data.labels is None:
        raise ValueError(f"{data.name} has no labels to learn")
    if kind not in TRAINABLE:
        raise UsageError(f"`kind` {kind}: legal: {', '.join(TRAINABLE)}.")
    if not 0 < learning_rate < math.inf:
        raise UsageError(f"`learning_rate` {learning_rate}: must be above 0 and finite.")
    if epochs < 1 or batch_size < 1:
        raise UsageError(f"`epochs` {epochs}, `batch_size` {batch_size}: must be at least 1.")
    decoder = KINDS["next_tokens"]
    if str((files.config.get("architectures") or [""])[0]).endswith((decoder.ending, *decoder.other_endings)):
        raise UsageError(f"`encoder` {encoder}: is a decoder; heads are trained on encoders.")
    names = KINDS[kind].label_names(data)
    if len(names) < 2:
        raise InputFileError(
            f"{data.name}: every label is {names[0]!r}, so there is nothing to learn. Give other texts."
        )
    quiet_transformers()
    torch.manual_seed(seed)
    model = _with_head(source, kind, names)
    config = AutoConfig.from_pretrained(source, local_files_only=True)
    config.architectures = [type(model).__name__]
    tokenizer = load_tokenizer(source, config)
    loaded = LoadedModel(str(encoder), model, tokenizer, "")
    batches = tokenized(loaded, data.texts, batch_size=batch_size)
    targets = read_targets(loaded, data, batches)
    if targets is None:
        raise ValueError(f"{data.name} has nothing to learn")
    updates = num_updates(epochs, len(batches), batches_per_update)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=learning_rate, weight_decay=0.01, fused=True)
    warmup = max(1, updates // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda update: min((update + 1) / warmup, (updates - update) / max(1, updates - warmup))
    )
    model.train()
    means: list[float] = []
    for update in range(updates):
        indices = batches_of(update, batches_per_update, len(batches), seed)
        mean = set_gradients(lambda index: _loss(of_labels, loaded, batches[index], targets), indices, learned, team)
        if not math.isfinite(mean):
            raise UsageError(f"`learning_rate` {learning_rate}: the loss is {mean} after {update} updates. Lower it.")
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        schedule.step()
        means.append(mean)
        progress(update + 1, updates, mean)
    model.eval()
    if team.rank == 0:
        with atomic_folder(output) as folder:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        if loss == "cross-entropy" and kind != "spans":
            _check_learned(means, len(names), learning_rate)


def _loss(of_labels: TrainingLoss, loaded: LoadedModel, batch: TokenBatch, targets: Targets) -> torch.Tensor:
    """Return the loss of a batch with its labels."""
    made = Pass(answers(loaded.head, loaded.model, batch), {})
    return of_labels.loss(Comparison(made, lambda: made, batch, 0, (), targets.of(made.rows)))


def _check_learned(means: Sequence[float], num_classes: int, learning_rate: float) -> None:
    """Warn if the cross-entropy ends above ln(classes), the loss of a model that gives all classes equal odds."""
    last = means[-max(1, round(LAST * len(means))) :]
    end, at_random = math.fsum(last) / len(last), math.log(num_classes)
    if end > WORSE * at_random:
        advice = "Lower the rate" if end > means[0] else "Train for more epochs"
        warnings.warn(
            QbertOptWarning(
                f"`learning_rate` {learning_rate}: the model learned nothing: the training loss is {end:.3g} at the "
                f"end, and answers at random have {at_random:.3g}. {advice}."
            ),
            stacklevel=3,
        )


def _with_head(source: Path, kind: OutputKind, names: Sequence[str]) -> PreTrainedModel:
    """Return the encoder with a head of these outputs; the folder's own head may have others."""
    model: PreTrainedModel
    model, report = AUTO_CLASSES[kind].from_pretrained(
        source,
        local_files_only=True,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
        use_safetensors=True,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    for name, stored, expected in sorted(report["mismatched_keys"]):
        if name.startswith(f"{model.base_model_prefix}."):
            raise InputFileError(
                f"{source}: {name} has shape {tuple(stored)}, and its config asks for {tuple(expected)}. Copy the "
                "folder again."
            )
    return model
