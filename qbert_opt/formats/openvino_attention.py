"""Attention in OpenVINO graphs. Imports OpenVINO, so this module is imported inside functions only."""

from __future__ import annotations

from typing import Any

import numpy as np

from .quiet_openvino import op

MASKED = np.float32(-1e30)  # score of a masked token: its softmax is exactly 0 beside any real score


def finite_scores(model: Any) -> None:
    """Give masked tokens a finite score, so that queries that see no token do not get NaN.

    Padding beyond a local window sees no token; PyTorch returns zeros there, but NaN would survive pooling with a mask,
    because it multiplies NaN by 0.

    Args:
        model: an OpenVINO model; changed in place.
    """
    scores: dict[tuple[str, int], Any] = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() != "ScaledDotProductAttention" or node.get_input_size() < 4:
            continue
        mask = node.input_value(3)
        if mask.get_element_type().to_string() != "boolean":
            continue
        key = (mask.get_node().get_friendly_name(), mask.get_index())
        if key not in scores:
            scores[key] = op.select(mask, op.constant(np.float32(0)), op.constant(MASKED)).output(0)
        node.input(3).replace_source_output(scores[key])


def rounded_output(product: Any, ends: tuple[float, float]) -> None:
    """Round a product plus its bias to 256 levels for all its readers, so that they multiply integers.

    Args:
        product: an output of a node.
        ends: ends of the range.
    """
    readers = product.get_target_inputs()
    if len(readers) == 1 and next(iter(readers)).get_node().get_type_name() == "Add":  # the bias
        product = next(iter(readers)).get_node().output(0)
        readers = product.get_target_inputs()
    low, high = (op.constant(np.float32(end)) for end in ends)
    rounded = op.fake_quantize(product, low, high, low, high, 256).output(0)
    for reader in readers:
        reader.replace_source_output(rounded)
