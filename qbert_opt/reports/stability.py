"""Stability of a plan as a few lines."""

from __future__ import annotations

from collections.abc import Iterator

from ..planning.stability import Stability

SHOWN = 8  # matrices that change most
OFTEN = 0.9


def stability_lines(stability: Stability) -> Iterator[str]:
    """Yield which choices change when the text is resampled, what that costs, and how much text is enough.

    Args:
        stability: result of the resampling.
    """
    kept = sum(item.kept >= OFTEN for item in stability.items)
    bits = sum(item.kept_bits >= OFTEN for item in stability.items)
    yield (
        f"{stability.resamples} plans of {stability.encoder_bytes:,} bytes from resampled text: "
        f"{kept} of {len(stability.items)} "
        f"matrices keep their choice in {OFTEN:.0%} of them, {bits} their bits; such a plan loses "
        f"{stability.regret:+.1%} by all text"
    )
    for item in stability.items[:SHOWN]:
        if item.kept < OFTEN:
            rivals = ", ".join(f"{name} {share:.0%}" for name, share in item.rivals[:3])
            yield f"  {item.module}: {item.choice} {item.kept:.0%}, {rivals}"
    yield "loss on unseen text by the number of samples that chose the plan, relative to the most:"
    yield "  " + ", ".join(f"{t.samples}: {t.excess:.2f} ± {t.std_error:.2f}" for t in stability.text)
    most = stability.text[-1].samples
    if stability.enough is None:
        yield f"more text would still help: {stability.text[-2].samples} samples lose over 5 % more than {most}"
    else:
        yield f"{stability.enough} samples are enough: within 5 % of {most}"
