"""How far an engine's outputs are from torch's, in terms of answers. Needs only numpy, as serving does.

A difference of 0.03 between logits means nothing where the answer is ten times as likely as the next, and nothing of
consequence where two answers are equally likely. So the loss is KL(torch || engine) in nats per answer, answers count
as changed where torch had decided, and the largest difference is relative to the largest number of all checks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import FiniteFloat

from ..runtime.frozen import Amount, Count, Frozen

IMPOSSIBLE = -1e30  # logit of a position that cannot be the answer, as `models.samples` has it
DECIDED = math.log(3)  # nats: the answer is at least three times as likely as the next
ARRAYS = "arrays"  # all outputs as they are, which older exports compare
UNITS = {
    ARRAYS: "squared difference",
    "regression": "squared difference relative to the answers' variance",
    "embeddings": "squared distance relative to the embedding's squared length",
}
OUTPUTS = {"spans": ("start_logits", "end_logits"), "embeddings": ("last_hidden_state",)}
LOGITS = ("logits",)
NATS = "nats of KL(torch || engine) per answer"

Arrays = Mapping[str, NDArray[Any]]


class Running(Protocol):
    """What `check_session` asks."""

    def run(self, inputs: Arrays) -> Arrays:
        """Return outputs by name.

        Args:
            inputs: token arrays `[B, T]` by name.
        """
        ...


class Agreement(Frozen):
    """An engine's outputs compared with torch's.

    Attributes:
        answers: how many were compared.
        loss: mean over answers, in `unit`.
        unit: nats of KL for whatever ends in a softmax; else a relative squared distance.
        decided: answers that torch holds at least three times as likely as the next.
        flipped: those of them that the engine answers otherwise.
        cosine: least cosine of two embeddings.
        difference: max |engine - torch| / max |torch| over all answers; of logits, less the mean of their row, which
            no answer depends on.
    """

    answers: Count
    loss: Amount
    unit: str
    decided: Count = 0
    flipped: Count = 0
    cosine: FiniteFloat | None = None
    difference: Amount

    def __str__(self) -> str:
        """Return it in one line."""
        parts = [f"{self.loss:.2g} {self.unit}"]
        if self.unit == NATS:
            parts.append(f"{self.flipped} of {self.decided} decided answers changed")
        if self.cosine is not None:
            parts.append(f"least cosine {self.cosine:.4f}")
        return ", ".join([*parts, f"max |difference| / max |reference| {self.difference:.2g}"])


class AgreementLimits(Frozen):
    """What is accepted; None accepts everything.

    Attributes:
        loss: largest `Agreement.loss`.
        flipped: largest share of decided answers that change.
        difference: largest `Agreement.difference`.
    """

    loss: Amount | None = None
    flipped: Amount | None = None
    difference: Amount | None = None

    def hold(self, agreement: Agreement | None) -> bool:
        """Return whether an agreement is within these limits.

        Args:
            agreement: None, for missing or non-finite outputs, is not within them.
        """
        return agreement is not None and not self.broken_by(agreement)

    def broken_by(self, agreement: Agreement) -> tuple[str, ...]:
        """Return the names of the limits that an agreement exceeds.

        Args:
            agreement: of an engine with torch.
        """
        broken = []
        if self.loss is not None and not agreement.loss <= self.loss:
            broken.append("loss")
        if self.flipped is not None and agreement.flipped > self.flipped * agreement.decided:
            broken.append("flipped")
        if self.difference is not None and not agreement.difference <= self.difference:
            broken.append("difference")
        return tuple(broken)


@dataclass(frozen=True, slots=True, eq=False)
class Check:
    """A batch of texts with torch's outputs.

    Attributes:
        inputs: token arrays `[B, T]` by name.
        answers: torch's, `[rows, columns]`.
        positions: `[B, T]`: which tokens carry an answer, or with which weights an embedding sums the tokens' states;
            None where a sample has one answer.
    """

    inputs: Arrays
    answers: NDArray[np.float32]
    positions: NDArray[Any] | None = None


def answer_rows(kind: str, outputs: Arrays, positions: NDArray[Any] | None) -> NDArray[np.float32]:
    """Extract the answers from a model's outputs, float32 `[rows, columns]`.

    Args:
        kind: what the model answers with, as in `models.samples`.
        outputs: by name.
        positions: as in `Check`.

    Raises:
        KeyError: an output is missing.
        ValueError: an output has another shape than the positions.
    """
    if kind == ARRAYS:
        return np.concatenate([outputs[name].reshape(1, -1) for name in sorted(outputs)], 1)
    if kind == "spans":
        raw = np.stack([outputs[name] for name in OUTPUTS["spans"]], 1)
        allowed = np.broadcast_to(np.asarray(positions, bool)[:, None], raw.shape)
        rows: NDArray[np.float32] = np.where(allowed, raw, np.float32(IMPOSSIBLE)).reshape(-1, raw.shape[-1])
        return rows
    if kind == "embeddings":
        # NaN at padding stays NaN: whoever pools with a mask multiplies it by 0
        embeddings: NDArray[np.float32] = np.einsum(
            "bt,btc->bc", np.asarray(positions, np.float32), outputs["last_hidden_state"]
        )
        return embeddings
    logits: NDArray[np.float32] = outputs["logits"]
    if positions is None:
        return logits
    if logits.shape[:2] != positions.shape:
        raise ValueError(f"outputs of shape {logits.shape} for {positions.shape} tokens")
    labelled: NDArray[np.float32] = logits[positions.astype(bool)]
    return labelled


def compare(kind: str, pairs: Sequence[tuple[NDArray[np.floating], NDArray[np.floating]]]) -> Agreement | None:
    """Compare answers.

    Args:
        kind: what they are.
        pairs: torch's and the engine's, `[rows, columns]`, batch by batch.

    Returns:
        The agreement; None if shapes differ or a number is not finite.
    """
    if any(a.shape != b.shape or not np.isfinite(b).all() for a, b in pairs) or not pairs:
        return None
    softmax = kind not in UNITS
    losses, cosines, worst, largest, decided, flipped = [], [], 0.0, 1e-30, 0, 0
    for reference, outputs in ((a.astype(np.float64), b.astype(np.float64)) for a, b in pairs):
        if softmax:
            log_p, log_q = _log_softmax(reference), _log_softmax(outputs)
            losses.append(np.maximum((np.exp(log_p) * (log_p - log_q)).sum(1), 0.0))  # rounding may fall below 0
            sure = _margins(log_p) >= DECIDED
            decided += int(sure.sum())
            flipped += int((sure & (log_p.argmax(1) != log_q.argmax(1))).sum())
            reference, outputs = _centered(reference, reference), _centered(outputs, reference)
        else:
            losses.append(np.square(outputs - reference).sum(1))
        if kind == "embeddings":
            lengths = np.square(reference).sum(1)
            losses[-1] = losses[-1] / lengths
            cosines.append((reference * outputs).sum(1) / np.sqrt(lengths * np.square(outputs).sum(1)))
        worst = max(worst, float(np.abs(outputs - reference).max(initial=0)))
        largest = max(largest, float(np.abs(reference).max(initial=0)))
    loss = float(np.concatenate(losses).mean())
    if kind == "regression":
        loss /= max(float(np.concatenate([a for a, _ in pairs]).astype(np.float64).var()), 1e-30)
    return Agreement(
        answers=sum(len(reference) for reference, _ in pairs),
        loss=loss,
        unit=UNITS.get(kind, NATS),
        decided=decided,
        flipped=flipped,
        cosine=float(np.concatenate(cosines).min()) if cosines else None,
        difference=worst / largest,
    )


def check_session(session: Running, kind: str, checks: Sequence[Check]) -> Agreement | None:
    """Run the checks in an engine and compare its outputs with torch's.

    Args:
        session: a model opened in the engine.
        kind: what the model answers with, as in `models.samples`.
        checks: texts with torch's outputs.

    Returns:
        The agreement; None if an output is missing, has another shape or is not finite.
    """
    pairs = []
    for check in checks:
        try:
            pairs.append((check.answers, answer_rows(kind, session.run(check.inputs), check.positions)))
        except (KeyError, ValueError):
            return None
    return compare(kind, pairs)


def _log_softmax(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = rows - rows.max(1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return result


def _margins(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """By how much the largest of each row exceeds the next."""
    if rows.shape[1] < 2:
        return np.zeros(len(rows))
    top = np.partition(rows, -2, axis=1)
    margins: NDArray[np.float64] = top[:, -1] - top[:, -2]
    return margins


def _centered(rows: NDArray[np.float64], possible: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows less their mean over what can be the answer; 0 elsewhere."""
    where = possible > IMPOSSIBLE / 2
    mean = np.where(where, rows, 0).sum(1, keepdims=True) / np.maximum(where.sum(1, keepdims=True), 1)
    centered: NDArray[np.float64] = np.where(where, rows - mean, 0)
    return centered
