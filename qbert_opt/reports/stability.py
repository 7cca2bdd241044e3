"""Stability of a plan as a few lines."""

from __future__ import annotations

from collections.abc import Iterator

from ..planning.stability import Stability

SHOWN = 8  # matrices that change most
OFTEN = 0.9


def stability_lines(found: Stability) -> Iterator[str]:
    """Which choices change when the text is resampled, what that costs, and how much text is enough.

    Args:
        found: what resampling did.
    """
    kept = sum(item.kept >= OFTEN for item in found.items)
    bits = sum(item.kept_bits >= OFTEN for item in found.items)
    yield (
        f"{found.resamples} plans of {found.encoder_bytes:,} bytes from resampled text: {kept} of {len(found.items)} "
        f"matrices keep their choice in {OFTEN:.0%} of them, {bits} their bits; such a plan loses "
        f"{found.regret:+.1%} by all text"
    )
    for item in found.items[:SHOWN]:
        if item.kept < OFTEN:
            rivals = ", ".join(f"{name} {share:.0%}" for name, share in item.rivals[:3])
            yield f"  {item.module}: {item.choice} {item.kept:.0%}, {rivals}"
    yield "loss on unseen text of plans from so many samples, against those from the most:"
    yield "  " + ", ".join(f"{t.samples}: {t.excess:.2f} ± {t.std_error:.2f}" for t in found.text)
    most = found.text[-1].samples
    if found.enough is None:
        yield f"more text would still help: {found.text[-2].samples} samples lose over 5 % more than {most}"
    else:
        yield f"{found.enough} samples are enough: within 5 % of {most}"
