"""Any `nn.Module` in place of a transformers model: the module, ready inputs, and a callable that computes outputs.

    loaded, data = from_module(module, inputs, answer)
    scores = measure_sensitivity(loaded, data, default_grid("gptq"), plan=CalibrationPlan(64, 64, 0))

The inputs replace tokenized texts. A sample is identified by the hash of its tensors, so the code that draws, splits
and hashes texts works on samples unchanged.
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
PROBED = 64  # the shortest and the longest of this many samples are batched together as a check


class AnsweringModule(nn.Module):
    """Wraps a module so that it takes named inputs and returns what the user's callable computes.

    Submodules and parameters keep their names.
    """

    def __init__(self, module: nn.Module, answer: Answer) -> None:
        super().__init__()
        self._parameters, self._buffers, self._modules = module._parameters, module._buffers, module._modules
        self.training = module.training
        self.__dict__["answered"] = (module, answer)  # not a registered submodule: all names would occur twice

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Return the outputs for one batch."""
        module, answer = self.__dict__["answered"]
        outputs: torch.Tensor = answer(module, inputs)
        return outputs


class SampleFeed:
    """Ready samples in place of a tokenizer.

    Samples of different length are batched together, padded with zeros, only if they have an attention mask; without
    one, a module cannot recognize padding, and each batch has samples of one length.
    """

    model_max_length = 1 << 30

    def __init__(self, samples: Mapping[str, dict[str, torch.Tensor]]) -> None:
        self._samples = dict(samples)

    def batches(self, keys: Sequence[tuple[str, ...]], batch_size: int, *, positions: bool) -> Iterator[TokenBatch]:
        """Batch samples by length, shortest first.

        Args:
            keys: hashes of samples.
            batch_size: samples per batch.
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
        """Write nothing: samples are not stored in a model's folder."""


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
        module: has float32 weights and its blocks in an `nn.ModuleList`; is put in evaluation mode. Linear layers and
            embeddings that are called are quantized; weights of torch's `nn.MultiheadAttention` are not, and are
            stored in fp16 like everything else.
        inputs: batches of named tensors `[B, T, …]`, with `attention_mask` `[B, T]` (1 at real positions) if there is
            padding, and `labelled` `[B, T]` if only some positions of tags or vocabularies carry labels.
        answer: maps the module and a batch of inputs with their mask (ones by default) to `[B, C]` logits,
            `[B, T, C]` for tags, vocabularies and next tokens, `[B, D]` embeddings or
            numbers.
        kind: kind of the outputs; spans are not supported.
        labels: the correct class of each sample as a number, or the correct number for regressions.
        name: name of the model, for reports.

    Returns:
        The model, and the samples in place of texts.

    Raises:
        UsageError: there are no inputs, the kind is spans, or the numbers of labels and samples differ.
        InputFileError: weights are NaN or infinite, or padding changes a sample's output.
    """
    if KINDS[kind].reads_pairs:  # spans need windows of a text
        raise UsageError(
            "kind 'spans': not supported. Legal: classes, tags, vocabulary, next_tokens, regression, embeddings."
        )
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
    """Split a batch into samples `[1, T, …]` without padding, each with a mask if the batch had one."""
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
    """Pad `[1, T, …]` with zeros along the positions."""
    if length == longest or tensor.dim() < 2 or tensor.shape[1] != length:
        return tensor
    return torch.cat([tensor, tensor.new_zeros(1, longest - length, *tensor.shape[2:])], 1)
