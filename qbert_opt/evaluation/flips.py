"""How many answers change at a given loss: predicted from the reference's margins.

Quantization moves the logits z of a row by an error e. To second order KL(softmax(z) ‖ softmax(z + e)) is half the
variance of e under p = softmax(z), ½ eᵀ(diag p − p pᵀ)e (the Fisher metric of a softmax; Amari 2016, section 2.2), so
it grows with the square of the error. Taking e as independent noise N(0, (s σ)²) on every logit, with σ by the row's
margin from `logit_noise`, whose own mean KL on the scoring texts is known, a predicted mean loss K gives its scale

    s² = K / KL(σ).

The answer of a row stays c with chance P(z_c + e_c > z_j + e_j for all j ≠ c) = E_x Π_j Φ(x + (z_c − z_j)/(s σ)) with x
standard normal, by Gauss-Hermite quadrature. With two classes this is Φ(margin / (s σ √2)), the margin being the
distance between the two logits.

K and KL(σ) are those of the scoring texts. The margins are those of the texts whose flips are predicted: of a few
hundred texts hardly ten are close enough to the boundary to flip, so another few hundred may have half or twice as
many. They are the float model's: no forward pass of any plan is needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import UsageError
from ..models.heads import KINDS
from ..models.samples import OutputKind, Outputs, Targets
from .intervals import Interval
from .logit_noise import LogitNoise, even_noise, margins_of

NODES = 32  # of the quadrature
RIVALS = 16  # logits per row that can win; the others of a large vocabulary are too far away
SCALES = np.geomspace(1e-3, 1e2, 41)  # of the noise, at which chances are tabulated
CARRYING = 8  # texts below which the density of margins is not read off single texts
LOSS_SPREAD = (
    0.5  # standard deviation of log(measured / predicted loss) of whole plans; benchmarks/predictions/flips.py
)
DRAWS = 1000
TOGETHER = 1 << 22  # numbers in memory at a time


def check_answers(kind: OutputKind, parameter: str) -> None:
    """Refuse a kind of output that cannot flip.

    Args:
        kind: of the model's outputs.
        parameter: the limit that was given, for the message.

    Raises:
        UsageError: it has no answers; names the kinds that do.
    """
    if not KINDS[kind].loss.softmax:
        legal = ", ".join(name for name, spec in KINDS.items() if spec.loss.softmax)
        raise UsageError(
            f"`{parameter}`: the model answers with {kind}, of which none can flip. Supported: {legal}. Limit the size "
            "with `budget` instead."
        )


@dataclass(frozen=True, slots=True, eq=False)
class FlipRelation:
    """The effect of a mean KL on the answers of some texts. A text flips if any of its answers changes.

    Attributes:
        flips: chance that each text flips, float64 `[texts, SCALES]`; noise of different rows is independent.
        drops: expected loss of right answers of each text, likewise; None where there are no labels per text.
        noise_kl: mean KL over the rows of the scoring texts at scale 1.
    """

    flips: NDArray[np.float64]
    drops: NDArray[np.float64] | None
    noise_kl: float

    def flipped(self, kl: float) -> float:
        """Return the predicted share of such texts that flip, from 0 to 1.

        Args:
            kl: mean KL, nats per row.
        """
        return self._at(self.flips, kl)

    def dropped(self, kl: float) -> float:
        """Return the predicted loss of accuracy on such texts, as a share; that of agreement where there are no labels.

        Args:
            kl: mean KL, nats per row.
        """
        return self._at(self.flips if self.drops is None else self.drops, kl)

    def forecast(self, kl: float, std_error: float, *, drop: bool = False, seed: int = 0) -> Interval:
        """Predict the share that a measurement on these very texts will find, with its 95 % prediction interval.

        The interval covers the error of the predicted loss (its standard error and `LOSS_SPREAD`) and sampling chance:
        each text flips or not. The texts are fixed, so their choice adds nothing.

        Args:
            kl: predicted mean KL on the scoring texts, nats per row.
            std_error: of `kl`.
            drop: of accuracy instead of answers.
            seed: of the draws.
        """
        generator = np.random.default_rng(seed)
        spread = math.hypot(LOSS_SPREAD, std_error / max(kl, 1e-30))
        curve = self.drops if drop and self.drops is not None else self.flips
        found = np.empty(DRAWS)
        for index, loss in enumerate(kl * np.exp(spread * generator.standard_normal(DRAWS))):
            shares = _of_texts(curve, self._scale(loss))
            changed = generator.random(len(shares)) < np.abs(shares)
            found[index] = np.mean(np.sign(shares) * changed)
        low, high = np.quantile(found, [0.025, 0.975])
        return Interval(float(_of_texts(curve, self._scale(kl)).mean()), float(low), float(high))

    def _scale(self, kl: float) -> float:
        """Return the scale of the noise at a mean KL of the scoring texts."""
        return math.sqrt(max(kl, 0.0) / max(self.noise_kl, 1e-300))

    def _at(self, curve: NDArray[np.float64], kl: float) -> float:
        scale, least = self._scale(kl), self.least_scale
        return float(_of_texts(curve, max(scale, least)).mean()) * min(1.0, scale / least)

    @property
    def least_scale(self) -> float:
        """Smallest scale at which enough texts carry the flips; below it, shares are proportional to the scale.

        The density of margins is constant near zero, but a few texts do not show that. The number of texts that carry
        the flips is the effective sample size (Σ flips)² / Σ flips².
        """
        carried = self.flips.sum(0) ** 2 / np.maximum((self.flips**2).sum(0), 1e-300)
        enough = np.flatnonzero(carried >= min(CARRYING, len(self.flips) / 2))
        return float(SCALES[enough[0] if len(enough) else -1])


def flip_relation(
    reference: Outputs, targets: Targets | None = None, *, noise: LogitNoise | None = None
) -> FlipRelation:
    """Tabulate how answers change with the loss.

    Args:
        reference: the float model's answers to the texts to predict.
        targets: the right ones; used for classifiers.
        noise: size of the errors by margin, and what it costs on the scoring texts; None takes noise of one size, and
            these texts as the scoring texts.

    Raises:
        UsageError: outputs that have no answers.
    """
    check_answers(reference.kind, "max_flips")
    noise = even_noise(reference) if noise is None else noise
    top, places = reference.values.double().topk(min(RIVALS, reference.values.shape[1]), dim=-1)
    labelled = targets is not None and KINDS[reference.kind].classifies
    right = places == targets.rows[:, None] if targets is not None and labelled else None
    top = top / torch.from_numpy(noise.at(margins_of(reference.values)))[:, None]  # in units of the noise of each row
    texts, where = np.unique(reference.by_text.numpy(), return_inverse=True)
    stays = np.zeros((len(texts), len(SCALES)))  # log of the chance that no answer of a text changes
    drops = np.zeros((len(texts), len(SCALES)))
    for column, scale in enumerate(SCALES):
        chances = _chances(top, float(scale), every=right is not None)
        np.add.at(stays[:, column], where, np.log(np.clip(chances[:, 0].numpy(), 1e-300, 1.0)))
        if right is not None:
            was = right[:, 0].double()
            np.add.at(drops[:, column], where, (was - (chances * right).sum(1)).numpy())
    return FlipRelation(-np.expm1(stays), drops if right is not None else None, noise.kl)


def _of_texts(curve: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """Look up the tabulated chances at a scale, float64 `[texts]`; below the table they are proportional to it."""
    place = float(np.interp(math.log(max(scale, SCALES[0])), np.log(SCALES), np.arange(len(SCALES))))
    left = min(int(place), len(SCALES) - 2)
    mixed = curve[:, left] + (place - left) * (curve[:, left + 1] - curve[:, left])
    chances: NDArray[np.float64] = mixed * min(1.0, scale / SCALES[0])
    return chances


def _chances(top: torch.Tensor, scale: float, *, every: bool) -> torch.Tensor:
    """Chance that each of a row's largest logits is the largest under noise, float64 `[rows, 1 or columns]`.

    Args:
        top: logits in descending order, `[rows, columns]`.
        scale: standard deviation of the noise on each.
        every: of all columns; otherwise of the first alone.
    """
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(NODES))
    weights = weights / weights.sum()
    columns = top.shape[1]
    found = []
    for part in top.split(max(1, TOGETHER // (columns * NODES))):
        of_columns = []
        for column in range(columns if every else 1):
            gaps = (part[:, [column]] - part) / scale  # [rows, columns]
            logs = torch.special.log_ndtr(nodes[None, :, None] + gaps[:, None, :])
            rivals = torch.arange(columns) != column
            of_columns.append(logs[..., rivals].sum(-1).exp() @ weights)
        found.append(torch.stack(of_columns, 1))
    return torch.cat(found)
