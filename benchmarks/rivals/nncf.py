"""NNCF's `compress_weights`: 1 / (error of 8 bits) times mean squared inputs, sorted and cut at a ratio.

    PYTHON -m benchmarks.rivals.nncf REQUEST ANSWER

It knows one low width and 8 bits: the widest low one that fits. Its `ratio` cuts its own order of matrices; here the
cut is the one that a search for the best ratio under the limit ends at, so that its undershoot costs it nothing.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from benchmarks.rivals.asked import answer, inputs, load, read

BACKUP = 8


def main() -> None:
    import nncf
    import torch
    from nncf.quantization.algorithms.weight_compression import mixed_precision

    asked = read(Path(sys.argv[1]))
    model, batches = load(asked), inputs(asked)
    sizes = {module: model.get_submodule(module).weight.numel() for module in asked.modules}
    scores: dict[str, float] = {}
    choose = mixed_precision.MixedPrecisionCriterion.apply

    def recorded(self, model, graph, statistic_points=None, dataset=None, weight_params=None):
        self._set_backend_entity(model)
        found = self._calc_sensitivity(model, graph, weight_params, statistic_points)
        for weight, score in zip(weight_params, found, strict=True):
            scores[weight.weight_name.removesuffix(".weight")] = float(score)
        return choose(self, model, graph, statistic_points, dataset, weight_params)

    mixed_precision.MixedPrecisionCriterion.apply = recorded
    started = time.process_time()
    with torch.no_grad():
        nncf.compress_weights(
            model, mode=nncf.CompressWeightsMode.INT4_SYM, ratio=0.5, group_size=-1, all_layers=True,
            sensitivity_metric=nncf.SensitivityMetric.HESSIAN_INPUT_ACTIVATION,
            dataset=nncf.Dataset(batches), subset_size=len(batches),
        )  # fmt: skip
    scoring_s = time.process_time() - started
    order = sorted(asked.modules, key=lambda module: scores[module])
    plans = [
        {"way": "hessian_input_activation", "code_bits": limit, "said": None, "satisfied": True,
         "bits": cut(order, sizes, limit, [b for b in asked.bits if b < BACKUP])}
        for limit in asked.code_bits
    ]  # fmt: skip
    answer(Path(sys.argv[2]), "nncf", scoring_s, plans)


def cut(order: list[str], sizes: dict[str, int], limit: float, widths: list[int]) -> dict[str, int]:
    """Give the low width to as few of the least sensitive matrices as keep the limit, and 8 bits to the others.

    Args:
        order: matrices, the least sensitive first.
        sizes: weights of each.
        limit: mean bits of a code.
        widths: legal low widths.
    """
    low = max(bits for bits in widths if bits <= limit)
    plan, total, weights = dict.fromkeys(order, BACKUP), float(BACKUP * sum(sizes.values())), sum(sizes.values())
    for module in order:
        if total <= limit * weights:
            break
        plan[module] = low
        total -= (BACKUP - low) * sizes[module]
    return plan


if __name__ == "__main__":
    main()
