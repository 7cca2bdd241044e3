"""Sizes as the papers report them, and budgets as users write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig

from qbert_opt.errors import UsageError
from qbert_opt.planning.budgets import parse_budget
from qbert_opt.planning.paper_sizes import size_without_embeddings_mib

ENCODER = 84_934_656  # weights of BERT-base's 72 encoder matrices


@pytest.mark.parametrize(
    ("bits", "printed"),
    [(32, 324.5), (8, 81.2), (4, 40.6), (3, 30.5), (2, 20.4), ([3] * 6 + [2] * 6, 25.4), ([2] * 6 + [3] * 6, 25.4)],
)
@pytest.mark.parametrize("labels", [2, 3])
def test_qberts_sizes(bits, printed, labels):
    """Q-BERT's column "Size w/o-e" (tables 1 and 2), BERT-base with 128 groups, from the config alone."""
    assert round(size_without_embeddings_mib(BertConfig(num_labels=labels), bits), 1) == printed


def test_one_width_per_layer():
    """Twelve layers need twelve widths."""
    with pytest.raises(ValueError, match=r"3 bit widths for 12 layers"):
        size_without_embeddings_mib(BertConfig(), [2, 3, 4])


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("25MB", 25_000_000),
        ("25 MB", 25_000_000),
        ("25MiB", 26_214_400),
        ("23.8MiB", 24_956_108),
        ("0.5GB", 500_000_000),
        ("200Mbit", 25_000_000),
        ("2.5bit", 26_542_080),
        ("2.5 bits", 26_542_080),
        ("13x", 26_133_740),
        ("4x", ENCODER),
    ],
)
def test_budgets(text, size_bytes):
    """MB is 10⁶, MiB is 2²⁰; bits are per weight; 13x is relative to float32. Fractions of a byte are dropped."""
    assert parse_budget(text, ENCODER, "--budget") == size_bytes


@pytest.mark.parametrize(
    "text",
    ["25", "25Mb", "25mb", "-1MB", "-2.5bit", "0MB", "0bit", "0x", "abc", "", "25 apples", "MB", "nanMB", "1e400MB"],
)
def test_illegal_budgets(text):
    """No unit, an ambiguous unit or a value that is not positive: one line that names the option and what is legal."""
    with pytest.raises(UsageError, match=r"--budget") as caught:
        parse_budget(text, ENCODER, "--budget")
    message = str(caught.value)
    assert message.startswith(f"--budget {text}: ")
    assert "\n" not in message
    assert "Legal: bytes with a unit (25MB" in message or "must be more than 0" in message


@given(st.integers(1, 10**9), st.integers(1, 10**6))
def test_bits_and_factor_agree(elements, millionths):
    """A budget of b bits per weight is a factor of 32 / b relative to float32, to the byte."""
    bits = millionths / 1e4
    by_bits = parse_budget(f"{bits:.4f}bit", elements, "--budget")
    assert abs(by_bits - elements * bits / 8) <= 1


@pytest.mark.parametrize("budget", [24000, 2.5, True])
def test_a_budget_is_text_with_a_unit(budget):
    with pytest.raises(UsageError, match=rf"`budget` {budget}: has no unit\. Legal: bytes with a unit \(25MB, 23.8MiB"):
        parse_budget(budget, ENCODER, "`budget`")
