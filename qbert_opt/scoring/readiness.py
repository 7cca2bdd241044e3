"""Check that a model and its samples can be scored; whatever would distort scores is an error or a warning."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.texts import LabeledTexts
from ..errors import InputFileError, UsageError
from ..models.batches import TokenBatch, num_windows, single_samples
from ..models.heads import KINDS
from ..models.heads.losses import confidence
from ..models.layers import largest_module_list
from ..models.loading import LoadedModel, check_evaluation_mode
from ..models.outputs import Outputs
from ..models.paging import pages_of
from ..runtime.distributed import ALONE, Processes
from ..runtime.memory_budget import MemoryShares, saved_bytes
from .task import Estimate

SURE_SIGMAS = 2.5  # standard errors of a significant difference in mean doubt (1 - confidence)
SURE_RATIO = 1.25  # ratio of mean doubts that matters


def check_ready(loaded: LoadedModel) -> None:
    """Reject a model in training mode or in half precision.

    Args:
        loaded: the model.

    Raises:
        UsageError: names the module or the weight.
    """
    check_evaluation_mode(loaded)
    for name, parameter in loaded.model.named_parameters():
        if parameter.is_floating_point() and parameter.dtype not in (torch.float32, torch.float64):
            raise UsageError(
                f"{loaded.name}: {name} is {str(parameter.dtype).removeprefix('torch.')}; "
                f"quantization errors are lost in "
                "half precision. Call model.float() first, or give the folder: it is loaded in float32."
            )


def check_samples(batches: Sequence[TokenBatch], source: str) -> None:
    """Reject samples that consist of padding only.

    Args:
        batches: the samples.
        source: name of the data, for error messages.

    Raises:
        InputFileError: names the first such sample.
    """
    for batch in batches:
        for index, length in zip(batch.indices, batch.mask.sum(1).tolist(), strict=True):
            if length == 0:
                raise InputFileError(f"{source}: sample {index + 1} consists of padding only. Remove it.")


@torch.no_grad()
def check_outputs(loaded: LoadedModel, batches: Sequence[TokenBatch], processes: Processes = ALONE) -> None:
    """Reject a model whose outputs are not finite, or differ between two runs.

    Args:
        loaded: the model.
        batches: texts to run it on.
        processes: those that share the batches; all of them raise the same error.

    Raises:
        InputFileError: NaN or infinite outputs; names the first module that produces them.
        UsageError: the outputs are random.
    """

    def finite(batch: TokenBatch) -> NDArray[np.float64]:
        return np.array([[float(torch.isfinite(loaded.head.read(loaded.model, batch)).all())]])

    check_finite(loaded, batches, [bool(found.all()) for found in processes.each(batches, finite)])
    check_repeatable(loaded, batches[-1])


def check_finite(loaded: LoadedModel, batches: Sequence[TokenBatch], finite: Sequence[bool]) -> None:
    """Reject a model whose outputs are not finite.

    Args:
        loaded: the model.
        batches: texts that it was run on.
        finite: whether its outputs for each batch were.

    Raises:
        InputFileError: NaN or infinite outputs; names the first module that produces them.
    """
    if not all(finite):
        culprit = _culprit(loaded, batches[finite.index(False)])
        raise InputFileError(f"{loaded.name}: {culprit} gives NaN or infinite values on this text.")


@torch.no_grad()
def check_repeatable(loaded: LoadedModel, batch: TokenBatch) -> None:
    """Reject a model whose outputs differ between two runs (dropout that eval() does not stop).

    Args:
        loaded: the model.
        batch: texts to run it on.

    Raises:
        UsageError: the outputs are random.
    """
    first, again = (loaded.head.read(loaded.model, batch) for _ in range(2))
    if not torch.equal(first, again):
        raise UsageError(
            f"{loaded.name}: two runs over the same text differ by up to {(first - again).abs().max():.1e}: dropout or "
            "noise is on although the model is in evaluation mode. Switch it off."
        )


def overlap_warnings(fit: Sequence[TokenBatch], scored: Sequence[TokenBatch]) -> list[str]:
    """Warn if scoring texts have the same tokens as calibration texts, because their scores are too low.

    Args:
        fit: calibration set.
        scored: scoring texts.
    """
    calibration = {_content(one) for one in single_samples(fit)}
    same = sum(_content(one) in calibration for one in single_samples(scored))
    if not same:
        return []
    return [f"{same} scoring texts have the same tokens as calibration texts: their scores are too low."]


def _content(sample: TokenBatch) -> bytes:
    """The content of a sample: its token ids, or all inputs if there are no token ids."""
    inputs = sample.inputs
    names = ["input_ids"] if "input_ids" in inputs else sorted(inputs)
    return b"".join(inputs[name].contiguous().numpy().tobytes() for name in names)


def training_text_warnings(scored: Outputs, held_out: Outputs, names: tuple[str, str]) -> list[str]:
    """Warn if a model is much more confident on the scoring text than on held-out text.

    On its training text a model is overconfident, so scores are too low.

    Args:
        scored: outputs on the scoring text.
        held_out: outputs on held-out text.
        names: of the two texts.
    """
    if not KINDS[scored.kind].loss.softmax:
        return []
    doubts = [1 - confidence(outputs.values) for outputs in (scored, held_out)]
    low, high = (float(doubt.mean()) for doubt in doubts)
    error = sum(float(doubt.var()) / len(doubt) for doubt in doubts) ** 0.5
    if high - low <= SURE_SIGMAS * error or high <= SURE_RATIO * low:
        return []
    return [
        f"the model is more confident on {names[0]} (mean {1 - low:.3f}) than on {names[1]} ({1 - high:.3f}), as on "
        "its training text: these scores are too low. Score text that it has not seen."
    ]


def window_warnings(loaded: LoadedModel, texts: LabeledTexts, batches: Sequence[TokenBatch]) -> list[str]:
    """Say that texts of a decoder were read in windows, at whose beginning tokens have less context.

    Args:
        loaded: the model.
        texts: that are scored.
        batches: of these texts.
    """
    windows = num_windows(batches)
    if windows is None or loaded.head.kind != "next_tokens":
        return []
    return [f"texts longer than {loaded.longest} tokens are scored in windows: {len(texts)} texts, {windows} windows."]


def check_estimate(module: str, estimate: Estimate) -> None:
    """Reject scores that are not finite, or negative: a plan would prefer a rounding error to none.

    Args:
        module: name of the matrix.
        estimate: its scores.

    Raises:
        InputFileError: names the matrix.
    """
    if not (torch.isfinite(estimate.value).all() and torch.isfinite(estimate.std_error).all()):
        raise InputFileError(
            f"{module}: its scores are NaN or infinite, because an activation or gradient is so on this text."
        )
    least = min(part.min().item() for part in (estimate.value, estimate.folds, estimate.std_error) if part.numel())
    if least < 0:
        raise InputFileError(
            f"{module}: the metric gives {least:g}; a score is a loss of at least 0. Use another metric."
        )


def fitting_batches(loaded: LoadedModel, batches: Sequence[TokenBatch], shares: MemoryShares) -> list[TokenBatch]:
    """Split batches so that the autograd graph of each fits into memory; of a paged model, the graph of one block.

    Args:
        loaded: the model.
        batches: the samples.
        shares: memory for the graph.

    Raises:
        UsageError: one sample alone does not fit.
    """
    longest = max(batches, key=lambda batch: batch.mask.shape[1])
    one = next(longest.split(1))
    per_sample = saved_bytes(loaded.model, lambda: loaded.head.read(loaded.model, one), forward_only=True)
    if pages_of(loaded.model) is not None:
        per_sample = -(-per_sample // max(1, len(largest_module_list(loaded.model))))
    shares.refuse_less(shares.graph, per_sample, "the graph of one sample")
    size = max(1, shares.graph // max(per_sample, 1))
    return [piece for batch in batches for piece in batch.split(size)]


@torch.no_grad()
def _culprit(loaded: LoadedModel, batch: TokenBatch) -> str:
    """Return the first module, in order of execution, whose output is not finite."""
    culprits: list[str] = []

    def hook(name: str):  # type: ignore[no-untyped-def]
        def look(_module, _args, output):  # type: ignore[no-untyped-def]
            if isinstance(output, torch.Tensor) and not torch.isfinite(output).all():
                culprits.append(name)

        return look

    handles = [module.register_forward_hook(hook(name)) for name, module in loaded.model.named_modules()]
    try:
        loaded.head.read(loaded.model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return culprits[0] if culprits else "the model"
