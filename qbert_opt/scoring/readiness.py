"""Is a model, and are samples, fit to be scored? What would mislead a score is refused in one line, by name."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import InputFileError, UsageError
from ..models.batches import TokenBatch, single_samples
from ..models.heads import KINDS
from ..models.loading import LoadedModel
from ..models.outputs import Outputs
from ..runtime.memory_budget import MemoryShares, saved_bytes
from .task import Estimate

SURE_SIGMAS = 2.5  # standard errors between two mean doubts that are no chance
SURE_RATIO = 1.25  # and by how much less doubt matters


def check_ready(loaded: LoadedModel) -> None:
    """Refuse a model in training mode or in half precision.

    Raises:
        UsageError: names the module or the weight.
    """
    for name, module in loaded.model.named_modules():
        if module.training:
            raise UsageError(
                f"{loaded.name}: {name or 'the model'} is in training mode, where dropout makes every score random. "
                "Call model.eval() first."
            )
    for name, parameter in loaded.model.named_parameters():
        if parameter.is_floating_point() and parameter.dtype not in (torch.float32, torch.float64):
            raise UsageError(
                f"{loaded.name}: {name} is {str(parameter.dtype).removeprefix('torch.')}; rounding errors drown in "
                "half precision. Call model.float() first, or give the folder: it is loaded in float32."
            )


def check_samples(batches: Sequence[TokenBatch], source: str) -> None:
    """Refuse samples of which nothing is left but padding.

    Raises:
        InputFileError: names the first such sample.
    """
    for batch in batches:
        for index, length in zip(batch.indices, batch.mask.sum(1).tolist(), strict=True):
            if length == 0:
                raise InputFileError(f"{source}: sample {index + 1} has no token but padding. Remove it.")


@torch.no_grad()
def check_outputs(loaded: LoadedModel, batches: Sequence[TokenBatch]) -> None:
    """Refuse a model whose outputs are not finite, or differ between two runs (dropout that eval() does not stop).

    Raises:
        InputFileError: NaN or infinite outputs; names the first module that makes them.
        UsageError: the outputs are random.
    """
    name = loaded.name
    for batch in batches:
        found = loaded.head.read(loaded.model, batch)
        if not torch.isfinite(found).all():
            raise InputFileError(f"{name}: {_culprit(loaded, batch)} gives NaN or infinite values on this text.")
    again = loaded.head.read(loaded.model, batches[-1])
    if not torch.equal(found, again):
        raise UsageError(
            f"{name}: two runs over the same text differ by up to {(found - again).abs().max():.1e}: dropout or noise "
            "is on although the model is in evaluation mode. Switch it off."
        )


def overlap_warnings(fit: Sequence[TokenBatch], scored: Sequence[TokenBatch]) -> list[str]:
    """Say how many scoring texts are, token for token, texts that fit the quantizer: their scores are too good."""
    known = {_content(one) for one in single_samples(fit)}
    same = sum(_content(one) in known for one in single_samples(scored))
    if not same:
        return []
    return [f"{same} scoring texts read the same to the model as texts that fit the quantizer: their scores are low."]


def _content(sample: TokenBatch) -> bytes:
    """What a model reads of a sample: its tokens, or all that it is given where there are no token ids."""
    inputs = sample.inputs
    names = ["input_ids"] if "input_ids" in inputs else sorted(inputs)
    return b"".join(inputs[name].contiguous().numpy().tobytes() for name in names)


def training_text_warnings(scored: Outputs, held_out: Outputs, names: tuple[str, str]) -> list[str]:
    """Say when a model is far surer of the scoring text than of text that it certainly has not seen.

    On text that trained the model nearly nothing is uncertain, so nearly nothing can be lost there: scores are too low.

    Args:
        scored: answers to the scoring text.
        held_out: answers to unseen text.
        names: of the two texts.
    """
    if not KINDS[scored.kind].loss.softmax:
        return []
    doubts = [1 - found.values.double().softmax(-1).max(-1).values for found in (scored, held_out)]
    low, high = (float(doubt.mean()) for doubt in doubts)
    error = sum(float(doubt.var()) / len(doubt) for doubt in doubts) ** 0.5
    if high - low <= SURE_SIGMAS * error or high <= SURE_RATIO * low:
        return []
    return [
        f"the model is surer of {names[0]} (mean confidence {1 - low:.3f}) than of {names[1]} ({1 - high:.3f}), as of "
        "text that trained it: these scores are low. Score text that it has not seen."
    ]


def check_estimate(module: str, estimate: Estimate) -> None:
    """Refuse scores that are not finite.

    Raises:
        InputFileError: names the matrix.
    """
    if not (torch.isfinite(estimate.value).all() and torch.isfinite(estimate.std_error).all()):
        raise InputFileError(
            f"{module}: its scores are NaN or infinite: an activation or gradient at it is, on this text."
        )


def fitting_batches(loaded: LoadedModel, batches: Sequence[TokenBatch], shares: MemoryShares) -> list[TokenBatch]:
    """Cut batches so that what autograd keeps of one fits into memory.

    Raises:
        UsageError: one sample alone does not fit.
    """
    longest = max(batches, key=lambda batch: batch.mask.shape[1])
    one = next(longest.split(1))
    per_sample = saved_bytes(loaded.model, lambda: loaded.head.read(loaded.model, one))
    shares.refuse_less(shares.graph, per_sample, "the graph of one sample")
    size = max(1, shares.graph // max(per_sample, 1))
    return [piece for batch in batches for piece in batch.split(size)]


def _culprit(loaded: LoadedModel, batch: TokenBatch) -> str:
    """Name of the first module, in order of execution, whose output is not finite."""
    found: list[str] = []

    def hook(name: str):  # type: ignore[no-untyped-def]
        def look(_module, _args, output):  # type: ignore[no-untyped-def]
            if isinstance(output, torch.Tensor) and not torch.isfinite(output).all():
                found.append(name)

        return look

    handles = [module.register_forward_hook(hook(name)) for name, module in loaded.model.named_modules()]
    try:
        loaded.head.read(loaded.model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else "the model"
