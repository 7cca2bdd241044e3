"""The origin of scores: the text, its length, and how confident the model is on it."""

from __future__ import annotations

from collections.abc import Sequence

from ..data.texts import LabeledTexts
from ..models.batches import TokenBatch, mean_tokens, num_cut, num_lost
from ..models.heads.losses import confidence as top_probability
from ..models.loading import LoadedModel
from ..models.outputs import Outputs
from ..models.targets import Targets
from ..quantization.calibration import CalibrationPlan
from ..runtime.provenance import code_commit, code_version, today
from ..spec.score_parts import Provenance


def provenance_of(
    loaded: LoadedModel,
    data: LabeledTexts,
    plan: CalibrationPlan,
    both: tuple[Sequence[TokenBatch], Sequence[TokenBatch]],
    targets: Targets | None,
    outputs: Outputs,
) -> Provenance:
    """Return the origin of scores.

    Args:
        loaded: the model.
        data: the data set.
        plan: sizes and seed of the draw.
        both: batches of the calibration set, and of the scoring texts or their pool.
        targets: right answers to the latter; None without labels.
        outputs: the model's answers to the latter.
    """
    fitted, scored = both
    spec, accuracy, confidence = loaded.head.spec, None, None
    if targets is not None and spec.classifies:
        accuracy = float((outputs.values.argmax(-1) == targets.rows).double().mean())
    if spec.loss.softmax:
        confidence = float(top_probability(outputs.values).mean())
    return Provenance(
        data=data.name,
        data_sha256=data.sha256,
        num_scored=plan.num_scored,
        num_pool=plan.num_pool,
        num_calibration=plan.num_calibration,
        mean_tokens=mean_tokens(scored),
        mean_confidence=confidence,
        scored_accuracy=accuracy,
        max_tokens=loaded.longest if loaded.given_head is None else None,
        num_cut=num_cut(fitted) + num_cut(scored),
        num_lost=num_lost(fitted) + num_lost(scored),
        seed=plan.seed,
        commit=code_commit(),
        version=code_version(),
        date=today(),
    )
