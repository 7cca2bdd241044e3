"""NVIDIA ModelOpt's `auto_quantize` with its gradient score: Σ (∂loss/∂Y ⊙ ΔY)², and CBC.

    PYTHON -m benchmarks.rivals.modelopt REQUEST ANSWER

Twice: as shipped, and with the same scores times one factor, since CBC's tolerances are absolute and raw scores of a
confident model lie below them. Formats are its integers around the middle of each row's range: as many levels below
the middle as above, so three of 2 bits.
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path

from benchmarks.rivals.asked import answer, has_loss, load, read, refuse, tensors

LARGEST_SCORE = 1e4
UNQUANTIZED = 16
PACKAGE = "nvidia-modelopt"


def main() -> None:
    import modelopt.torch.quantization as mtq
    import torch

    asked = read(Path(sys.argv[1]))
    if not has_loss(asked):
        refuse(Path(sys.argv[2]), PACKAGE, "its gradient score needs a loss, which embeddings do not have")
        return
    model, batches = load(asked), tensors(asked)
    linear = [name for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)]
    formats = [_format(bits) for bits in asked.bits]
    weights, others = (
        sum(model.get_submodule(name).weight.numel() for name in linear if (name in asked.modules) is inside)
        for inside in (True, False)
    )

    def limit(code_bits: float) -> dict[str, float]:
        """Its limit counts layers that are left alone, at 16 bits."""
        return {"effective_bits": (code_bits * weights + UNQUANTIZED * others) / (weights + others)}

    started = time.process_time()
    _, state = mtq.auto_quantize(
        model,
        constraints=limit(asked.code_bits[0]),
        quantization_formats=formats,
        module_search_spaces=[
            {"module_name_patterns": list(asked.modules), "quantization_formats": formats, "allow_no_quant": False}
        ],
        disabled_layers=[name for name in linear if name not in asked.modules],
        data_loader=batches,
        forward_step=lambda m, batch: m(**batch),
        loss_func=lambda output, batch: output.loss,
        num_calib_steps=len(batches),
        num_score_steps=len(batches),
        method="gradient",
    )
    scoring_s = time.process_time() - started
    plans = [_plan(mtq, state, "gradient", bits, limit(bits)) for bits in asked.code_bits]
    largest = max(max(stat["scores"]) for stat in state["candidate_stats"].values())
    for stat in state["candidate_stats"].values():
        stat["scores"] = [score * LARGEST_SCORE / largest for score in stat["scores"]]
    plans += [_plan(mtq, state, "gradient, rescaled", bits, limit(bits)) for bits in asked.code_bits]
    answer(Path(sys.argv[2]), PACKAGE, scoring_s, plans)


def _format(bits: int) -> dict:
    weight = {"num_bits": bits, "axis": 0, "bias": {-1: None, "type": "static", "method": "max_min"}}
    return {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            {"quantizer_name": "*weight_quantizer", "cfg": weight},
        ],
        "algorithm": "max",
        "effective_bits": float(bits),
    }


def _plan(mtq, state, way: str, code_bits: float, constraints: dict[str, float]) -> dict:
    """Solve for one limit with the state's scores; a failure of the solver is a warning there."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        config = mtq.get_auto_quantize_config(state, constraints)
    failed = any("FAILED" in str(warning.message) for warning in said)
    end = ".weight_quantizer"
    bits = {
        entry["quantizer_name"].removesuffix(end): entry["cfg"]["num_bits"]
        for entry in config["quant_cfg"]
        if entry["quantizer_name"].endswith(end) and "*" not in entry["quantizer_name"]
    }
    return {"way": way, "code_bits": code_bits, "said": None, "satisfied": not failed, "bits": bits}


if __name__ == "__main__":
    main()
