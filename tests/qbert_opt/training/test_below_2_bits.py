"""Choices below 2 bits from scores to a trained folder: planned, written, read and trained as 1.6 or as 1 bit."""

import torch
from safetensors.torch import load_file

from qbert_opt.checkpoint.reader import load_quantized, open_packed, read_matrices
from qbert_opt.evaluation.evaluate import outputs
from qbert_opt.spec.allocation import read_allocation


def test_three_levels_from_scores_to_a_trained_folder(cli, tiny_folder, data_file, file_texts, tmp_path):
    """A budget below 2 bits takes ternary matrices; each of their weights is -s, 0 or s, also after training."""
    scores, plan, start, out = (tmp_path / name for name in ("scores.json", "plan.json", "start", "out"))
    text = ("--model", tiny_folder, "--data", data_file)
    steps = (
        ("sensitivity", *text, "--method", "rtn", "--bits", "2,4", "--groupings", "columns:32", "--forms",
         "offset,ternary", "--calibration-samples", 20, "--scoring-samples", 20, "-o", scores),
        ("solve", "--scores", scores, "--budget", "2.4bit", "-o", plan),
        ("quantize", plan, "--model", tiny_folder, "-o", start),
        ("recover", start, *text, "--steps", "blocks,distill", "--epochs", "1", "--rates",
         "blocks:4e-3:1e-3,distill:4e-3:1e-3", "--batch-size", 8, "-o", out),
    )  # fmt: skip
    for step in steps:
        found = cli(*step, "-q")
        assert found.code == 0, found.err
    planned = read_allocation(plan)
    forms = {matrix.form for matrix in planned.matrices}
    assert "ternary" in forms and planned.average_bits <= 2.4
    for folder in (start, out):
        stored = load_file(folder / "model.safetensors")
        assert sum(tensor.numel() * tensor.element_size() for tensor in stored.values()) == planned.total_bytes
        for matrix, (_, quantized) in zip(planned.matrices, read_matrices(folder, planned), strict=False):
            if matrix.form == "ternary":
                size = matrix.rows * matrix.columns
                assert stored[f"{matrix.module}.weight"].numel() == -(-size // 5)
                assert set(quantized.codes.unique().tolist()) <= {0, 1, 2}
                steps_away = quantized.dequantize().abs().reshape(-1, 32) / quantized.scale.float().reshape(-1, 1)
                assert set(steps_away.unique().tolist()) <= {0.0, 1.0}
    packed = outputs(open_packed(out), file_texts)
    assert packed.shape == (len(file_texts), 3)
    refused = cli("export", start, "--engine", "openvino", "-o", tmp_path / "exported", "-q")
    assert refused.code == 2 and "form ternary; it supports offset, symmetric" in refused.complaint


def test_two_levels_from_scores_to_a_trained_folder(cli, tiny_folder, data_file, file_texts, tmp_path):
    """A budget below 2.5 bits takes 1-bit matrices: eight codes a byte, two levels per group, also after training."""
    scores, plan, start, out = (tmp_path / name for name in ("scores.json", "plan.json", "start", "out"))
    text = ("--model", tiny_folder, "--data", data_file)
    steps = (
        ("sensitivity", *text, "--method", "gptq", "--bits", "1,2", "--groupings", "columns:32",
         "--calibration-samples", 20, "--scoring-samples", 20, "-o", scores),
        ("solve", "--scores", scores, "--budget", "2.5bit", "-o", plan),
        ("quantize", plan, "--model", tiny_folder, *text[2:], "-o", start),
        ("recover", start, *text, "--epochs", "1", "--rates", "blocks:3e-4:3e-4", "--batch-size", 8, "-o", out),
    )  # fmt: skip
    for step in steps:
        found = cli(*step, "-q")
        assert found.code == 0, found.err
    planned = read_allocation(plan)
    assert {matrix.bits for matrix in planned.matrices} == {1, 2}
    trained, changed = dict(read_matrices(out, planned)), 0
    for folder in (start, out):
        stored = load_file(folder / "model.safetensors")
        assert sum(tensor.numel() * tensor.element_size() for tensor in stored.values()) == planned.total_bytes
        for matrix, (module, quantized) in zip(planned.matrices, read_matrices(folder, planned), strict=False):
            if matrix.bits == 1:
                assert stored[f"{module}.weight"].numel() == -(-matrix.rows * matrix.columns // 8)
                assert all(len(group.unique()) == 2 for group in quantized.dequantize().reshape(-1, 32))
                changed += int((quantized.codes != trained[module].codes).sum())
    assert changed > 0
    torch.testing.assert_close(outputs(open_packed(out), file_texts), outputs(load_quantized(out)[0], file_texts))
    refused = cli("export", start, "--engine", "onnxruntime", "-o", tmp_path / "exported", "-q")
    assert refused.code == 2 and "1 bit" in refused.complaint
