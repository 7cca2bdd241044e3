"""Fine-tune an encoder on labelled texts, tagged words or answered questions: plain AdamW, linear warm-up and decay.

It exists so that every figure of this project can be reproduced from publicly available encoders; it does not replace a
training framework.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, PreTrainedModel

from ..data.texts import LabeledTexts
from ..errors import InputFileError, UsageError
from ..models.folder_files import read_model_files
from ..models.heads import KINDS
from ..models.loading import AUTO_CLASSES, LoadedModel, load_tokenizer, quiet_transformers, tokenized
from ..models.outputs import OutputKind, answers, head_of
from ..models.samples import NONE
from ..models.targets import read_targets
from ..runtime.files import atomic_folder, check_folder

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
    seed: int = 0,
    progress: Callable[[int, int, float], None] = lambda done, total, loss: None,
) -> None:
    """Fine-tune `encoder` with a new head and write the model folder `output`.

    Args:
        encoder: folder of a pre-trained encoder; a head of as many outputs is trained further, any other replaced.
        data: labelled texts; the sorted names of their labels or tags become the head's outputs.
        output: folder to write, in safetensors.
        kind: output of the head: classes, tags of words, or spans of a text.
        epochs: passes over the data, at least 1.
        learning_rate: peak of the schedule (10 % linear warm-up, linear decay to 0).
        batch_size: samples per step; batches hold sentences of similar length, in random order.
        seed: of head initialisation, dropout and batch order.
        progress: called after each step with steps done, total steps, and loss in nats.

    Raises:
        InputFileError: `encoder` is not a model folder, the labels do not suit `kind`, or all are the same.
        UsageError: `kind` cannot be fine-tuned, a number is out of its range, or the loss became infinite.
        ValueError: `data` has no labels.
    """
    source = read_model_files(encoder).folder
    check_folder(Path(output))  # before the work
    if data.labels is None:
        raise ValueError(f"{data.name} has no labels to learn")
    if kind not in TRAINABLE:
        raise UsageError(f"kind {kind!r}: legal are {', '.join(TRAINABLE)}.")
    if not 0 < learning_rate < math.inf:
        raise UsageError(f"`learning_rate` {learning_rate}: must be above 0 and finite.")
    if epochs < 1 or batch_size < 1:
        raise UsageError(f"`epochs` {epochs}, `batch_size` {batch_size}: must be at least 1.")
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
    head = head_of(model)
    steps = epochs * len(batches)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    warmup = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))
    )
    generator = np.random.default_rng(seed)
    model.train()
    done = 0
    for _ in range(epochs):
        for index in generator.permutation(len(batches)):
            batch = batches[index]
            outputs = answers(head, model, batch)
            loss = torch.nn.functional.cross_entropy(outputs.values, targets.of(outputs), ignore_index=NONE)
            if not torch.isfinite(loss):
                raise UsageError(
                    f"`learning_rate` {learning_rate}: the loss is {loss.item()} after {done} steps. Lower it."
                )
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            done += 1
            progress(done, steps, loss.item())
    model.eval()
    with atomic_folder(output) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


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
