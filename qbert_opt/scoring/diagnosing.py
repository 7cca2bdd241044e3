"""Diagnose a model's Hessian on labelled text: has training converged, and what does the loss look like nearby?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..curvature.hessian import ArpackNoConvergence, EigenPair, HessianOperator, hessian_within, top_eigenpairs
from ..curvature.lanczos import least_vector, quadrature
from ..curvature.losses import LabelledLoss
from ..data.texts import LabeledTexts, split_disjoint
from ..errors import InputFileError, UsageError
from ..models.batches import num_cut
from ..models.loading import LoadedModel, tokenized
from ..models.structure import profile_model
from ..models.targets import read_targets
from ..models.tracing import unfrozen
from ..quantization.calibration import BATCH_SIZE
from ..runtime.distributed import ALONE, Processes
from ..runtime.memory_budget import MemoryShares
from ..runtime.progress import Progress, silent
from ..runtime.provenance import code_commit, code_version, today
from ..runtime.resumable import Jobs
from ..spec.profiles import ModelProfile
from .diagnosis import Descent, Diagnosis, Spectrum
from .landscape import DESCENT, DESCENT_POINTS, Walk, descent_of, line_keys, surface_of
from .readiness import check_outputs, check_ready, check_samples, fitting_batches

VECTOR_BYTES = 8  # Krylov vectors are float64
FEWEST_VECTORS = 8
FORWARDS_OF_A_PRODUCT = 4  # forward passes that a product takes, for the progress estimate
USUAL_EIGENVECTOR_PRODUCTS = 20  # likewise
NOTABLE_SHARE = 0.2  # size of the smallest eigenvalue relative to the top one
NOTABLE_FALL_NATS = 0.05


@dataclass(frozen=True, slots=True)
class DiagnosisPlan:
    """The extent of a diagnosis.

    Attributes:
        num_samples: number of texts for the loss.
        vectors: random vectors for the spectral density, at least 2.
        steps: Hessian-vector products per random vector.
        points: points of the loss surface per direction; odd, so that the model itself is one of them.
        layer: encoder layer, counting from 1; None takes all.
        seed: of all random draws.
    """

    num_samples: int = 64
    vectors: int = 4
    steps: int = 30
    points: int = 11
    layer: int | None = None
    seed: int = 0


def diagnose(
    loaded: LoadedModel,
    data: LabeledTexts,
    plan: DiagnosisPlan,
    *,
    memory_limit_bytes: int,
    checkpoint: str | Path | None = None,
    processes: Processes | None = None,
    progress: Progress = silent,
) -> Diagnosis:
    """Analyse the Hessian of the training loss with respect to the searched matrices of a model or of one layer.

    Args:
        loaded: a model with softmax outputs.
        data: labelled text; use the training text to see whether training has converged.
        plan: the extent of the diagnosis.
        memory_limit_bytes: memory to use in addition to the model itself.
        checkpoint: progress file, from which an interrupted run resumes.
        processes: the processes that share the work; each returns the whole diagnosis.
        progress: called with work done and total work, in forward passes, and the current step.

    Returns:
        Eigenvalues, spectral density, loss surface and warnings.

    Raises:
        UsageError: no labels, another head, no such layer, a model that is not ready, too small a memory limit.
        InputFileError: too little data, unknown labels, non-finite outputs.
    """
    if plan.points < 3 or plan.points % 2 == 0:
        raise UsageError(
            f"`points` {plan.points}: must be odd and at least 3; the model itself is the point in the middle."
        )
    if not loaded.head.spec.loss.softmax:
        raise UsageError(
            f"diagnose: the loss is cross-entropy, which is not defined for the {loaded.head.kind} of {loaded.name}."
        )
    check_ready(loaded)
    profile = profile_model(loaded)
    names = _modules(profile, plan.layer)
    [texts] = split_disjoint(data, [plan.num_samples], seed=plan.seed, names=["samples"])
    batches = tokenized(loaded, texts.texts, batch_size=BATCH_SIZE)
    cut = num_cut(batches)
    targets = read_targets(loaded, texts, batches)
    if targets is None:
        raise UsageError(f"diagnose: needs labels, and {data.name} has none. Name their column with `label_column`.")
    check_samples(batches, data.name)
    check_outputs(loaded, batches, ALONE if processes is None else processes)
    shares = MemoryShares(memory_limit_bytes)
    loss = LabelledLoss(loaded.model, loaded.head, targets)
    parameters = [loaded.model.get_parameter(f"{name}.weight") for name in names]
    basis = shares.factors // (VECTOR_BYTES * sum(p.numel() for p in parameters))
    needed = FEWEST_VECTORS * VECTOR_BYTES * sum(p.numel() for p in parameters)
    shares.refuse_less(shares.factors, needed, f"{FEWEST_VECTORS} vectors of {len(names)} matrices (or one `layer`)")
    parts = [loaded.sha256, texts.sha256, repr(plan), str(shares), code_version(), code_commit()]
    jobs = Jobs(checkpoint, hashlib.sha256("\n".join(parts).encode()).hexdigest(), processes)
    work = _Work(progress, plan, jobs)
    batches = fitting_batches(loaded, batches, shares)
    with unfrozen(loaded.model):
        operator, _ = hessian_within(shares, loss, parameters, batches)
        if not sum(operator.batch_rows):
            raise InputFileError(f"{data.name}: no sample has a label that the model can predict.")
        operator.on_product = work.product
        gradient = operator.mean_gradient()
        pairs = _top_two(operator, gradient, plan.seed, basis)
        spectrum = _spectrum(operator, plan, jobs)
        down = _downward(operator, plan, spectrum, pairs) if jobs.pending([DESCENT]) else None
        rows = sum(operator.batch_rows)
        del operator  # with its graphs
    walk = Walk(parameters, lambda: sum(float(loss.summed(batch)) for batch in batches) / rows, work.point)
    surface = surface_of(jobs, walk, pairs, gradient, plan.points)
    descent = descent_of(jobs, walk, down)
    jobs.remove()
    return Diagnosis(
        model=loaded.name,
        model_sha256=loaded.sha256,
        data=data.name,
        data_sha256=data.sha256,
        num_samples=plan.num_samples,
        layer=plan.layer,
        num_parameters=len(gradient),
        loss_unit=f"nats of cross-entropy per {loaded.head.spec.row}",
        loss=surface.loss[plan.points // 2][plan.points // 2],
        gradient_norm=float(np.linalg.norm(gradient)),
        eigenvalues=(pairs[0].value, pairs[1].value),
        spectrum=spectrum,
        surface=surface,
        descent=descent,
        warnings=(*_cut(loaded, cut, plan), *_warnings(pairs[0].value, descent)),
        seed=plan.seed,
        commit=code_commit(),
        version=code_version(),
        date=today(),
    )


class _Work:
    """Counts work done and total work in forward passes; a Hessian product takes as long as four."""

    def __init__(self, tell: Progress, plan: DiagnosisPlan, jobs: Jobs) -> None:
        last = len(jobs.pending([DESCENT]))
        products = USUAL_EIGENVECTOR_PRODUCTS + plan.steps * (len(jobs.pending(_vectors(plan))) + 2 * last)
        points = plan.points * len(jobs.pending(line_keys(plan.points))) + DESCENT_POINTS * last
        self._total = products * FORWARDS_OF_A_PRODUCT + points
        self._tell, self._done, self._products = tell, 0, 0

    def product(self) -> None:
        """Count a Hessian product."""
        self._products += 1
        self._advance(FORWARDS_OF_A_PRODUCT, f"Hessian product {self._products}")

    def point(self) -> None:
        """Count a loss evaluation near the model."""
        self._advance(1, "losses nearby")

    def _advance(self, forwards: int, what: str) -> None:
        self._done = min(self._done + forwards, self._total)
        self._tell(self._done, self._total, what)


def _vectors(plan: DiagnosisPlan) -> list[str]:
    return [f"vector {index}" for index in range(plan.vectors)]


def _modules(profile: ModelProfile, layer: int | None) -> list[str]:
    """Searched matrices of one layer or of all.

    Raises:
        UsageError: no such layer.
    """
    if layer is not None and not 1 <= layer <= profile.num_blocks:
        raise UsageError(f"`layer` {layer}: {profile.name} has layers 1 to {profile.num_blocks}.")
    return [matrix.module for matrix in profile.matrices if layer is None or matrix.block == layer - 1]


def _top_two(
    operator: HessianOperator, gradient: NDArray[np.float64], seed: int, basis: int
) -> tuple[EigenPair, EigenPair]:
    """Return the two eigenpairs of largest magnitude, with each vector oriented so that the loss decreases along it."""
    try:
        pairs = top_eigenpairs(operator, 2, seed=seed, max_basis=basis)
    except ArpackNoConvergence:
        raise UsageError(
            f"diagnose: the top two eigenvectors did not converge within {operator.num_products} Hessian products. "
            "Raise `memory_limit_bytes`, or diagnose one `layer`."
        ) from None
    first, second = (EigenPair(p.value, -p.vector if p.vector @ gradient > 0 else p.vector) for p in pairs)
    return first, second


def _spectrum(operator: HessianOperator, plan: DiagnosisPlan, jobs: Jobs) -> Spectrum:
    """Return the density of the eigenvalues; each random vector is a job."""

    def run(key: str) -> list[float]:
        spectrum = quadrature(operator, plan.steps, plan.seed + 1 + int(key.split()[1]))
        return [*spectrum.nodes.tolist(), *spectrum.weights.tolist()]

    halves = [np.split(np.array(row), 2) for row in jobs.run(_vectors(plan), run).values()]
    return Spectrum(
        nodes=tuple(tuple(nodes.tolist()) for nodes, _ in halves),
        weights=tuple(tuple(weights.tolist()) for _, weights in halves),
    )


def _downward(
    operator: HessianOperator, plan: DiagnosisPlan, spectrum: Spectrum, pairs: tuple[EigenPair, EigenPair]
) -> EigenPair | None:
    """Return the direction of most negative curvature found by a random vector or among the top eigenvectors.

    None if there is none.
    """
    smallest = [min(nodes) for nodes in spectrum.nodes]
    lowest = min(pairs, key=lambda pair: pair.value)
    if min(smallest) >= 0 and lowest.value >= 0:
        return None
    if lowest.value <= min(smallest):
        return lowest
    vector = least_vector(operator, plan.steps, plan.seed + 1 + smallest.index(min(smallest)))
    return EigenPair(float(vector @ (operator @ vector)), vector)


def _cut(loaded: LoadedModel, cut: int, plan: DiagnosisPlan) -> list[str]:
    """Say how many texts were cut."""
    return [f"{cut} of {plan.num_samples} texts were cut to {loaded.longest} tokens."] if cut else []


def _warnings(top: float, descent: Descent | None) -> Iterator[str]:
    """Warn of notable negative curvature, as Q-BERT found on SQuAD.

    On one layer of MiniLM-L6 on SNIPS, the magnitude of the smallest eigenvalue relative to the top one was 0.63 to
    0.68 after 10 steps of fine-tuning, 0.18 to 0.22 after 50, and 0.11 to 0.16 after two epochs. It never vanishes,
    because positive and negative curvature both shrink with the residuals. A decrease of the loss itself therefore
    counts too.
    """
    if descent is None:
        return
    share, before, after = (
        -descent.curvature / max(abs(top), 1e-300),
        descent.loss[DESCENT_POINTS // 2],
        min(descent.loss),
    )
    if share > NOTABLE_SHARE or descent.fall > NOTABLE_FALL_NATS:
        yield (
            "the model has not converged on this text: the Hessian has an eigenvalue of "
            f"{descent.curvature:.3g} or less, {share:.0%} of the top "
            f"one in size, and along it the loss decreases from "
            f"{before:.4g} to {after:.4g}. Train longer, or diagnose text that the model was trained on."
        )
