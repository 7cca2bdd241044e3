"""The same model with fewer attention heads: query, key and value lose rows, the attention's output loses columns.

The output of a head that is left out is replaced by its mean over calibration text, which is added to the bias of the
attention's output. BERT's attention in the installed transformers infers its number of heads from the width of these
matrices, so the smaller model is an ordinary model of its class. Models of classes that do not (relative positions by
head, fused matrices, heads that share keys) are refused.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ..errors import UsageError
from ..spec.dropped import DroppedHeads
from ..spec.profiles import Kind, MatrixSpec, ModelProfile
from .architectures import build_model
from .batches import TokenBatch, run
from .folder_files import first_line
from .head_counts import COUNTS, FIELD, SHAPES
from .loading import LoadedModel, weights_sha256
from .structure import profile_model
from .tracing import of_this_thread

READ: tuple[Kind, ...] = ("query", "key", "value")
OUTPUT: Kind = "attention_output"
DIGITS = 6  # significant digits of a mean in the plan; the measured model uses the means as the plan stores them
SAME = 1e-4  # tolerance relative to the largest output: the same sums in another order

HeadMeans = Mapping[tuple[int, int], Sequence[float]]
"""Mean output of a head, by its layer and number."""


@dataclass(frozen=True, slots=True)
class AttentionLayer:
    """The matrices of one layer's attention.

    Attributes:
        modules: name of each matrix's module, by role.
        heads: number of heads of the layer.
        size: outputs of one head.
    """

    modules: Mapping[Kind, str]
    heads: int
    size: int

    @property
    def output(self) -> str:
        """The module of the attention's output."""
        return self.modules[OUTPUT]

    def places(self, heads: Collection[int]) -> torch.Tensor:
        """Return the rows of query, key and value, or columns of the output, that belong to some heads.

        Args:
            heads: their numbers.
        """
        numbers = torch.tensor(sorted(heads), dtype=torch.long)
        return (numbers[:, None] * self.size + torch.arange(self.size)).flatten()


def attention_layers(loaded: LoadedModel) -> tuple[AttentionLayer, ...]:
    """Return the attention of each layer, if the model still works with fewer heads.

    Args:
        loaded: the whole model.

    Raises:
        UsageError: its attention does not allow fewer heads; names the class and the reason.
    """
    profile = profile_model(loaded)
    reason = _obstacle(loaded, profile)
    if reason is not None:
        raise UsageError(_refusal(loaded, reason))
    layers = []
    for block in range(profile.num_blocks):
        inside = {matrix.kind: matrix for matrix in profile.matrices if matrix.block == block}
        modules = {kind: inside[kind].module for kind in (*READ, OUTPUT)}
        layers.append(AttentionLayer(modules, profile.heads, inside[OUTPUT].columns // profile.heads))
    _check_runs(loaded, layers)
    return tuple(layers)


def _refusal(loaded: LoadedModel, reason: str) -> str:
    return f"{loaded.name}: no attention heads can be left out of {type(loaded.model).__name__}: {reason}."


def _obstacle(loaded: LoadedModel, profile: ModelProfile) -> str | None:
    """Return why heads cannot be cut out of a model's matrices; None if they can."""
    if getattr(loaded.model, "config", None) is None:
        return "a plain module has no config that could say how many a layer keeps"
    if profile.causal:
        return "heads of decoders cannot be left out"
    if profile.block_heads:
        return "some are left out already"
    for block in range(profile.num_blocks):
        inside = [matrix for matrix in profile.matrices if matrix.block == block]
        kinds = [matrix.kind for matrix in inside]
        if "query_key_value" in kinds:
            return "one matrix makes queries, keys and values"
        if "position" in kinds or any(matrix.fixed_positions for matrix in inside):
            return "its relative positions have a part for each head"
        if any(kinds.count(kind) != 1 for kind in (*READ, OUTPUT)):
            return f"layer {block + 1} has no query, key, value and attention output of its own"
        parts = [matrix for matrix in inside if matrix.kind in (*READ, OUTPUT)]
        if any(matrix.uses != 1 for matrix in parts):
            return "layers share their weights"
        reason = _shape_obstacle(loaded, profile, parts)
        if reason is not None:
            return reason
    return None


def _shape_obstacle(loaded: LoadedModel, profile: ModelProfile, parts: Sequence[MatrixSpec]) -> str | None:
    layers = {matrix.kind: loaded.model.get_submodule(matrix.module) for matrix in parts}
    widths = {matrix.columns if matrix.kind == OUTPUT else matrix.rows for matrix in parts}
    if not all(isinstance(layer, nn.Linear) for layer in layers.values()):
        return "its attention is not made of linear layers"
    if len(widths) != 1 or max(widths) % profile.heads:
        return "its heads differ in width, or share keys"
    if layers[OUTPUT].bias is None:
        return "the attention's output has no bias, which would hold what the missing heads add"
    return None


def _check_runs(loaded: LoadedModel, layers: Sequence[AttentionLayer]) -> None:
    """Check that layers with fewer heads run, and compute what they would if the missing heads returned zeros.

    Raises:
        UsageError: they do not.
    """
    if layers[0].heads < 2:
        raise UsageError(_refusal(loaded, "its layers have one each"))
    left_out = {len(layers) - 1: 0, 0: layers[0].heads - 1}.items()  # the first and last of a layer
    means: HeadMeans = {head: [0.0] * layers[head[0]].size for head in left_out}
    example = loaded.example()
    with torch.no_grad():
        with replaced(loaded, layers, means):
            expected = loaded.head.read(loaded.model, example)
        try:
            smaller, _ = _cut(loaded, layers, means)
            found = loaded.head.read(smaller, example)
        except Exception as error:
            raise UsageError(_refusal(loaded, f"its attention does not run with fewer ({first_line(error)})")) from None
    if found.shape != expected.shape or float((found - expected).abs().max()) > SAME * float(expected.abs().max()):
        raise UsageError(_refusal(loaded, "with fewer its attention computes something else"))


def head_means(
    loaded: LoadedModel, layers: Sequence[AttentionLayer], batches: Sequence[TokenBatch]
) -> dict[tuple[int, int], tuple[float, ...]]:
    """Return the mean output of every head over all tokens of some texts, rounded as a plan stores it.

    Args:
        loaded: the whole model.
        layers: its attention.
        batches: the calibration texts.
    """
    sums = [torch.zeros(layer.heads * layer.size, dtype=torch.float64) for layer in layers]
    mask = batches[0].mask

    def watch(number: int) -> Any:
        def add(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            sums[number] += args[0][mask.bool()].double().sum(0).cpu()

        return add

    with torch.no_grad(), _hooked(loaded, layers, {number: watch(number) for number in range(len(layers))}):
        for batch in batches:
            mask = batch.mask
            run(loaded.model, batch)
    count = sum(int(batch.mask.sum()) for batch in batches)
    return {
        (number, head): tuple(float(f"{value:.{DIGITS}g}") for value in part.tolist())
        for number, layer in enumerate(layers)
        for head, part in enumerate((sums[number] / count).split(layer.size))
    }


@contextmanager
def replaced(loaded: LoadedModel, layers: Sequence[AttentionLayer], means: HeadMeans) -> Iterator[None]:
    """Inside this context, some heads return their mean outputs; the model itself is not modified.

    Args:
        loaded: the whole model.
        layers: its attention.
        means: mean outputs of the heads to leave out.
    """

    def replace_by(number: int) -> Any:
        heads = sorted(head for layer, head in means if layer == number)
        places = layers[number].places(heads)
        values = torch.tensor([value for head in heads for value in means[number, head]])

        def hook(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            given = args[0].clone()
            given[..., places] = values.to(given)
            return (given, *args[1:])

        return hook

    with _hooked(loaded, layers, {number: replace_by(number) for number in {layer for layer, _ in means}}):
        yield


@contextmanager
def _hooked(loaded: LoadedModel, layers: Sequence[AttentionLayer], hooks: Mapping[int, Any]) -> Iterator[None]:
    """Hook the inputs of some layers' attention outputs."""
    handles = [
        loaded.model.get_submodule(layers[number].output).register_forward_pre_hook(of_this_thread(hook))
        for number, hook in hooks.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def without_heads(loaded: LoadedModel, dropped: DroppedHeads, layers: Sequence[AttentionLayer] = ()) -> LoadedModel:
    """Return a model without some attention heads, whose mean outputs are added to the biases.

    Args:
        loaded: the whole model; not modified.
        dropped: the heads.
        layers: its attention, if it is known already.

    Raises:
        UsageError: the model has no such heads, or does not work without them.
    """
    layers = layers or attention_layers(loaded)
    own = (len(layers), layers[0].heads, layers[0].size)
    planned = (len(dropped.heads), dropped.num_heads, len(dropped.means[0]))
    if own != planned:
        raise UsageError(
            f"{loaded.name}: has {own[0]} layers of {own[1]} heads of {own[2]} outputs; the plan leaves heads out of "
            f"{planned[0]} layers of {planned[1]} heads of {planned[2]}."
        )
    heads = [(layer, head) for layer, numbers in enumerate(dropped.heads) for head in numbers]
    model, sha256 = _cut(loaded, layers, dict(zip(heads, dropped.means, strict=True)))
    return replace(loaded, model=model, sha256=sha256)


def _cut(loaded: LoadedModel, layers: Sequence[AttentionLayer], means: HeadMeans) -> tuple[Any, str]:
    """Return the model without the heads whose means are given, and the hash of its weights."""
    state = dict(loaded.model.state_dict())
    counts, shapes = [], dict[str, list[int]]()
    for number, layer in enumerate(layers):
        missing = sorted(head for of, head in means if of == number)
        counts.append(layer.heads - len(missing))
        if not missing:
            continue
        kept = layer.places(set(range(layer.heads)) - set(missing))
        for kind in READ:
            for part in ("weight", "bias"):
                name = f"{layer.modules[kind]}.{part}"
                if name in state:
                    state[name] = state[name][kept]
        weight, bias = state[f"{layer.output}.weight"], state[f"{layer.output}.bias"]
        mean = torch.tensor([value for head in missing for value in means[number, head]], dtype=torch.float64)
        # in float64, so that the rounded sum, which the model's hash contains, is the same on every machine
        added = weight[:, layer.places(missing)].double() @ mean.to(weight.device)
        state[f"{layer.output}.bias"] = (bias.double() + added).to(bias.dtype)
        state[f"{layer.output}.weight"] = weight[:, kept]
        shapes |= {name: list(state[f"{name}.weight"].shape) for name in layer.modules.values()}
    config = copy.deepcopy(loaded.model.config)
    setattr(config, FIELD, {COUNTS: counts, SHAPES: shapes})
    model = build_model(config, loaded.name)
    model.load_state_dict(state)
    return model.eval(), weights_sha256(model)
