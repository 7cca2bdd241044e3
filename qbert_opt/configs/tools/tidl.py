"""TI TIDL: the compile options that keep some layers at 16 bits, everything else at 8; for TDA4 and AM6x processors.

TIDL quantizes a float ONNX model itself. Layers are named by their output tensors, and a product whose output is listed
has input, output and weights at 16 bits, since such layers have one precision (edgeai-tidl-tools, docs/quantization.md,
Manual Mixed Precision). So a matrix is listed if the plan gives its inputs 16 bits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from ...spec.allocation import Allocation
from ...spec.planned import PlannedMatrix
from ...spec.profiles import ModelProfile
from ..offers import FP16_BITS, Carried, Offer

TITLE = "TI TIDL"
SUFFIXES = (".json",)
ROUNDING = "to the nearest code of a range that its own calibration finds"
NOTES = (
    "Use: pass these options to TIDLCompilationProvider beside artifacts_folder and tidl_tools_path, with the float "
    "model from torch.onnx.export(model, ..., dynamo=False). Not run here: the compiler is not published as a package.",
    "Layers are named as that export names a linear layer with a bias; without one, its name ends in MatMul_output_0.",
    "16-bit layers come from a plan of inputs: score with --activation-bits 8,16. Weights below 8 bits become 8.",
)
OUTPUTS = "advanced_options:output_feature_16bit_names_list"
PARAMETERS = "advanced_options:params_16bit_names_list"
HIGH = 16
INPUT_BITS = (8, HIGH)


def offers(matrix: PlannedMatrix) -> Iterator[Offer]:
    """8 bits, one symmetric range per output row."""
    yield Offer(8, "rows:each", "symmetric", FP16_BITS)


def write(plan: Allocation, carried: Sequence[Carried], suffix: str) -> str:
    """Write the options; the list of weights is empty, since no choice has weights of more than 8 bits."""
    wide = {module for item in plan.activations if item.bits == HIGH for module in item.modules}
    names = [_output(item.matrix.module) for item in carried if item.matrix.module in wide]
    options = {"tensor_bits": 8, OUTPUTS: ", ".join(names), PARAMETERS: ""}
    return json.dumps(options, indent=1) + "\n"


def read(content: Any, profile: ModelProfile, suffix: str) -> dict[str, Offer]:
    """Read the options: every matrix has 8 bits; which inputs have 16 is no part of what a matrix is stored as."""
    if content.get("tensor_bits") != 8 or content.get(PARAMETERS):
        raise ValueError(f"tensor_bits must be 8 and {PARAMETERS} empty: weights of 16 bits are no choice here")
    known = {_output(matrix.module) for matrix in profile.matrices}
    unknown = [name for name in str(content[OUTPUTS]).replace(",", " ").split() if name not in known]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no matrix of the model")
    return {matrix.module: Offer(8, "rows:each", "symmetric", FP16_BITS) for matrix in profile.matrices}


def _output(module: str) -> str:
    """Name of a linear layer's output tensor in an ONNX file of torch.onnx.export."""
    return re.sub(r"/(\d+)", r".\1", f"/{module.replace('.', '/')}") + "/Add_output_0"  # numbers stay with their list
