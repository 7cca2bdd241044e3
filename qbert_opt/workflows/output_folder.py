"""The output folder of `optimize`: files of an interrupted run are reused if they belong to the same run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..data.texts import LabeledTexts
from ..engines.rules import EngineRules
from ..errors import UsageError
from ..models.loading import LoadedModel
from ..quantization.calibration import CalibrationPlan, method_grid, static_grid
from ..runtime.files import check_folder
from ..runtime.locks import acquire, release
from ..runtime.progress import Progress
from ..runtime.provenance import code_version
from ..spec.activations import activation_grid
from ..spec.choices import Choice
from ..spec.forms import Form
from ..spec.scores import ScoreTable, read_scores, write_scores
from .score import score_model

SCORES, PLAN, OUTCOME, TRIED = "scores.json", "allocation.json", "optimized.json", "tried"
PARTIAL = f"{SCORES}.partial"


@dataclass(frozen=True, slots=True)
class OutputFolder:
    """Where everything is written.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def tried(self) -> Path:
        """Folder of the plans that are being compared; removed at the end."""
        return self.path / TRIED

    def check(self) -> None:
        """Refuse a folder that holds anything but an unfinished run.

        Raises:
            UsageError: says what is there.
        """
        check_folder(self.path)
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise UsageError(f"{self.path}: is a file. Give a new folder.")
        names = {entry.name for entry in self.path.iterdir()}
        if OUTCOME in names:
            raise UsageError(
                f"{self.path}: holds a finished run. Give a new folder; `scores` {self.path / SCORES} spares scoring."
            )
        if TRIED in names:  # until the end of a run, so that nothing else can have written here
            return
        strange = sorted(name for name in names - {SCORES, PARTIAL} if not name.startswith("."))
        if strange:
            raise UsageError(
                f"{self.path}: exists and is not an empty folder ({strange[0]}). Give a new folder, or remove it first."
            )

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep other runs out of the folder, which is created.

        After an interrupt the process keeps the lock, so that the command line can say which work is kept.
        """
        self.path.mkdir(exist_ok=True)
        acquire(self.path / SCORES)
        try:
            yield
        except KeyboardInterrupt:
            raise
        except BaseException:
            release(self.path / SCORES)
            raise
        release(self.path / SCORES)

    def scores(
        self,
        loaded: LoadedModel,
        data: LabeledTexts,
        plan: CalibrationPlan,
        *,
        given: ScoreTable | None,
        metric: str,
        method: str,
        forms: Sequence[Form] | None,
        rules: EngineRules | None,
        activation_bits: Sequence[int],
        progress: Progress,
    ) -> tuple[ScoreTable, bool]:
        """Return the scores: given ones, those of an interrupted run with the same settings, or new ones.

        Args:
            loaded: the model.
            data: the calibration data.
            plan: sizes and seed.
            given: a table of the caller's.
            metric: estimator of the loss.
            method: quantizer.
            forms: what a range stores; None for the quantizer's usual form.
            rules: of the engine; where `forms` are given, only what it holds is scored.
            activation_bits: widths of inputs to score.
            progress: called with the matrix that is being scored.

        Returns:
            The scores, and whether they are of an interrupted run.
        """
        path = self.path / SCORES
        choices = scored_choices(method, activation_bits, forms, rules)
        if given is not None:
            write_scores(given, path)
            return given, False
        if path.is_file():
            table = read_scores(path)
            if _same(table, loaded, data, plan, metric, method, choices, activation_bits):
                progress(1, 1, f"{path} is of the same model, text and seed: used again")
                return table, True
        table = score_model(
            loaded, data, metric=metric, method=method, calibration=plan, forms=forms,
            activation_bits=activation_bits, choices=choices,
            checkpoint=self.path / PARTIAL, progress=progress,
        )  # fmt: skip
        write_scores(table, path)
        return table, False


def scored_choices(
    method: str, activation_bits: Sequence[int], forms: Sequence[Form] | None, rules: EngineRules | None
) -> tuple[Choice, ...]:
    """Return the choices to score: where forms are open and inputs will be planned, those that are fast with such.

    Args:
        method: quantizer.
        activation_bits: widths of inputs to score.
        forms: what a range stores; None for the quantizer's usual form.
        rules: of the engine; where `forms` are given, only what it holds is scored.
    """
    if activation_bits and forms is None:
        return static_grid(method)
    grid = method_grid(method, forms=forms)
    return grid if forms is None or rules is None else tuple(c for c in grid if rules.refusal(c) is None)


def _same(
    table: ScoreTable,
    loaded: LoadedModel,
    data: LabeledTexts,
    plan: CalibrationPlan,
    metric: str,
    method: str,
    choices: Sequence[Choice],
    activation_bits: Sequence[int],
) -> bool:
    """Whether scores equal those that would be computed now."""
    origin = table.provenance
    inputs = tuple(c.name for c in activation_grid(activation_bits))
    wanted = (
        loaded.sha256, data.sha256, plan, loaded.longest, metric, method, code_version(),
        tuple(c.name for c in choices), inputs,
    )  # fmt: skip
    found = (
        table.profile.sha256, origin.data_sha256,
        CalibrationPlan.of(origin), origin.max_tokens, table.metric,
        table.method, origin.version, table.choices, table.activations.choices if table.activations else (),
    )  # fmt: skip
    return found == wanted
