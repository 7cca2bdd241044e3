"""Matrices quantized in sequence: the first block as ever, the others on inputs that carry the earlier errors."""

import copy

import torch

from qbert_opt.curvature.capture import input_grams
from qbert_opt.planning.planner import allocate
from qbert_opt.quantization.calibration import fit_batches
from qbert_opt.quantization.methods import gptq
from qbert_opt.quantization.sequential import sequential_matrices
from qbert_opt.spec.limits import Limits
from qbert_opt.workflows.quantize import plan_quantizer, plan_texts


def test_each_block_sees_the_errors_before_it(tiny, gptq_scores, file_texts):
    """By hand: the second block's matrices are gptq's on inputs of a model whose first block is quantized."""
    low_plan = allocate(gptq_scores, Limits(encoder_bytes=int(gptq_scores.profile.encoder_elements * 3.3 / 8)))
    fit, _ = plan_texts(tiny, low_plan, file_texts)
    batches = fit_batches(tiny, "gptq", fit)
    in_sequence = dict(sequential_matrices(tiny, low_plan, fit))
    model = copy.deepcopy(tiny.model)
    profile, differ = low_plan.profile, 0
    together = plan_quantizer(tiny, low_plan, file_texts)
    for block in (0, 1):
        inside = [(m, p) for m, p in zip(profile.matrices, low_plan.matrices, strict=True) if m.block == block]
        grams = input_grams(model, batches, [m.module for m, _ in inside])
        for matrix, planned in inside:
            weight = tiny.model.get_parameter(f"{matrix.module}.weight").detach()
            [expected] = gptq.quantize(weight, [planned.layout], grams[matrix.module])
            found = in_sequence[matrix.module]
            assert torch.equal(found.dequantize(), expected.dequantize())
            [parallel] = together.quantize(matrix, [planned.choice])
            same = torch.equal(parallel.dequantize(), found.dequantize())
            assert same or block == 1
            differ += not same
            with torch.no_grad():
                model.get_parameter(f"{matrix.module}.weight").copy_(expected.dequantize())
    assert differ
