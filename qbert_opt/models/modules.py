"""Any `nn.Module` in place of a transformers model: the module, ready inputs, and a callable that gives its outputs.

    loaded, data = from_module(module, inputs, answer)
    scores = measure_sensitivity(loaded, data, default_grid("gptq"), plan=CalibrationPlan(64, 64, 0))

The inputs take the place of tokenized texts: each sample is known by the hash of its tensors, so that whatever draws,
splits and hashes texts does so with samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data.texts import LabeledTexts
from ..errors import UsageError
from .heads import KINDS
from .loading import LoadedModel, check_finite, weights_sha256
from .outputs import Head, OutputKind, rows
from .probe import check_batching
from .samples import TokenBatch

Answer = Callable[[nn.Module, Mapping[str, torch.Tensor]], torch.Tensor]
MASK = "attention_mask"
LABELLED = "labelled"
PROBED = 64  # samples of which the shortest and the longest are tried beside each other


class AnsweringModule(nn.Module):
    """A module that is called with named inputs and answers as the user's callable reads it.

    Its parts and parameters are the user's own, under their own names.
    """

    def __init__(self, module: nn.Module, answer: Answer) -> None:
        super().__init__()
        self._parameters, self._buffers, self._modules = module._parameters, module._buffers, module._modules
        self.training = module.training
        self.__dict__["answered"] = (module, answer)  # no part of its own: the names would all be there twice

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Answer one batch."""
        module, answer = self.__dict__["answered"]
        outputs: torch.Tensor = answer(module, inputs)
        return outputs


class SampleFeed:
    """Ready samples in a tokenizer's place.

    Samples of different length are padded with zeros beside each other only if they came with an attention mask;
    without one a module cannot know what is padding, and batches hold samples of one length.
    """

    model_max_length = 1 << 30

    def __init__(self, samples: Mapping[str, dict[str, torch.Tensor]]) -> None:
        self._samples = dict(samples)

    def batches(self, keys: Sequence[tuple[str, ...]], batch_size: int, *, positions: bool) -> Iterator[TokenBatch]:
        """Batch samples by length, shortest first.

        Args:
            keys: names of samples.
            batch_size: samples in a batch.
            positions: whether labels belong to positions.
        """
        samples = [self._samples[key] for (key,) in keys]
        order = sorted(range(len(keys)), key=lambda i: (_length(samples[i]), i))
        chunk: list[int] = []
        for index in order:
            full = len(chunk) == batch_size
            if chunk and (full or not _may_share(samples[chunk[0]], samples[index])):
                yield _batch(samples, chunk, positions)
                chunk = []
            chunk.append(index)
        if chunk:
            yield _batch(samples, chunk, positions)

    def save_pretrained(self, folder: str | Path) -> None:
        """Samples are no part of a model's folder."""


def from_module(
    module: nn.Module,
    inputs: Sequence[Mapping[str, torch.Tensor]],
    answer: Answer = lambda module, given: module(**given),
    *,
    kind: OutputKind = "classes",
    labels: Sequence[float] | None = None,
    name: str = "module",
) -> tuple[LoadedModel, LabeledTexts]:
    """Wrap a module and its samples for `measure_sensitivity`, `quantize_model` and `evaluate`.

    Args:
        module: float32 weights; put in evaluation mode. Its blocks are an `nn.ModuleList`. What lies in linear layers
            and embeddings that are called is planned; weights of torch's own `nn.MultiheadAttention` are not, and
            count as everything else in fp16.
        inputs: batches of named tensors `[B, T, …]`, with `attention_mask` `[B, T]` (1 at real positions) where there
            is padding, and `labelled` `[B, T]` where only some positions of tags or vocabularies carry labels.
        answer: takes the module and a batch of inputs with their mask (ones where they came without), returns `[B, C]`
            logits, `[B, T, C]` for tags and vocabularies, `[B, D]` embeddings or numbers.
        kind: what it returns; spans are not supported.
        labels: the right class of each sample, as a number, or the right number for regressions.
        name: what the reports call it.

    Returns:
        The model, and the samples in the place of texts.

    Raises:
        UsageError: no inputs, spans, or labels that are not one for each sample.
        InputFileError: weights that are NaN or infinite, or a sample that answers differently beside a longer one.
    """
    if KINDS[kind].reads_pairs:  # pairs are windows of a text, which a module does not have
        raise UsageError("kind 'spans': a module may answer with classes, tags, vocabulary, regression, embeddings.")
    keyed = [(_key(sample), sample) for batch in inputs for sample in _singles(batch)]
    if not keyed:
        raise UsageError("inputs: no samples. Give at least one batch.")
    if labels is not None and (len(labels) != len(keyed) or KINDS[kind].positions):
        raise UsageError(
            f"labels: {len(labels)} for {len(keyed)} samples of {kind}. Give one for each sample, or none."
        )
    module.eval()
    check_finite(module, name)
    feed = SampleFeed(dict(keyed))
    [first] = feed.batches([(keyed[0][0],)], 1, positions=KINDS[kind].positions)
    answering: Any = type(type(module).__name__, (AnsweringModule,), {})  # reports name the user's class
    model = answering(module, answer)
    with torch.no_grad():
        columns = rows(kind, _read(model, first), first).values.shape[-1]
    head = Head(kind, columns, _read)
    few = sorted(keyed[:PROBED], key=lambda entry: _length(entry[1]))
    ends = [(few[0][0],), (few[-1][0],)]
    together, alone = (list(feed.batches(ends, size, positions=KINDS[kind].positions)) for size in (2, 1))
    check_batching(head, model, together, alone, name)
    loaded = LoadedModel(name, model, feed, weights_sha256(model), head, first)
    data = LabeledTexts(name, tuple((key,) for key, _ in keyed), None if labels is None else tuple(map(str, labels)))
    return loaded, data


def _read(model: nn.Module, batch: TokenBatch) -> torch.Tensor:
    outputs: torch.Tensor = model(**batch.inputs)
    return outputs


def _singles(batch: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """Cut a batch into samples `[1, T, …]` without padding, each with a mask where the batch had one."""
    size = len(next(iter(batch.values())))
    for row in range(size):
        sample = {name: tensor[row : row + 1] for name, tensor in batch.items()}
        if MASK in sample:
            keep = sample[MASK][0].bool()
            sample = {n: t[:, keep] if t.shape[1:2] == keep.shape else t for n, t in sample.items()}
        yield {name: tensor.detach().clone() for name, tensor in sample.items()}


def _key(sample: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(sample.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _length(sample: Mapping[str, torch.Tensor]) -> int:
    tensor = sample.get(MASK, next(iter(sample.values())))
    return tensor.shape[1] if tensor.dim() > 1 else 1


def _may_share(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return MASK in one or _length(one) == _length(other)


def _batch(samples: Sequence[Mapping[str, torch.Tensor]], chunk: list[int], positions: bool) -> TokenBatch:
    longest = max(_length(samples[i]) for i in chunk)
    inputs = {}
    for name in samples[chunk[0]]:
        inputs[name] = torch.cat([_padded(samples[i][name], _length(samples[i]), longest) for i in chunk])
    if MASK not in inputs:
        inputs[MASK] = torch.ones(len(chunk), longest, dtype=torch.int64)
    where = inputs.pop(LABELLED, inputs[MASK]).bool() if positions else None
    return TokenBatch(inputs, tuple(chunk), where)


def _padded(tensor: torch.Tensor, length: int, longest: int) -> torch.Tensor:
    """Append zeros along the positions of `[1, T, …]`."""
    if length == longest or tensor.dim() < 2 or tensor.shape[1] != length:
        return tensor
    return torch.cat([tensor, tensor.new_zeros(1, longest - length, *tensor.shape[2:])], 1)
