"""Plan, prove, predict and produce mixed-precision BERT-style models for small devices.

    import qbert_opt as qb

    plan = qb.allocate(qb.reference_scores(), qb.Limits(encoder_bytes=25_000_000), device=qb.load_device("car-soc"))

Names are loaded when first used: planning from a table of scores imports no torch. Importing this package changes
nothing else; `qb.register()` lets `AutoModel….from_pretrained` open quantized folders.
"""

from importlib import import_module

TYPE_CHECKING = False  # as type checkers know it; importing `typing` delays the first moment that Ctrl-C is handled

if TYPE_CHECKING:
    from hwmodels import CostReport as CostReport
    from hwmodels import Device as Device

    from .checkpoint.hub import register as register
    from .checkpoint.reader import load_quantized as load_quantized
    from .checkpoint.writer import write_checkpoint as write_checkpoint
    from .costs.devices import load_device as load_device
    from .costs.operations import Storage as Storage
    from .costs.simulate import simulate_allocation as simulate_allocation
    from .costs.workload import Workload as Workload
    from .data.reference import reference_scores as reference_scores
    from .data.texts import LabeledTexts as LabeledTexts
    from .data.texts import read_texts as read_texts
    from .errors import DeviceError as DeviceError
    from .errors import InfeasibleError as InfeasibleError
    from .errors import InputFileError as InputFileError
    from .errors import QbertOptError as QbertOptError
    from .errors import UsageError as UsageError
    from .evaluation.evaluate import Evaluation as Evaluation
    from .evaluation.evaluate import evaluate as evaluate
    from .evaluation.evaluate import outputs as outputs
    from .models.loading import LoadedModel as LoadedModel
    from .models.loading import load_model as load_model
    from .models.modules import from_module as from_module
    from .planning.budgets import parse_budget as parse_budget
    from .planning.constraints import PlanConstraints as PlanConstraints
    from .planning.device_classes import plan_for_each as plan_for_each
    from .planning.frontier import trade_off as trade_off
    from .planning.planner import allocate as allocate
    from .planning.program import PlanningTask as PlanningTask
    from .planning.recipes import recipe_allocation as recipe_allocation
    from .planning.solving import SolverOptions as SolverOptions
    from .quantization.calibration import CalibrationPlan as CalibrationPlan
    from .reports.plan import print_plan as print_plan
    from .scoring.diagnosing import diagnose as diagnose
    from .scoring.layer_drops import layer_drops as layer_drops
    from .scoring.sensitivity import measure_sensitivity as measure_sensitivity
    from .serving.predictor import Predictor as Predictor
    from .spec.allocation import Allocation as Allocation
    from .spec.allocation import read_allocation as read_allocation
    from .spec.allocation import write_allocation as write_allocation
    from .spec.choices import Choice as Choice
    from .spec.grids import default_grid as default_grid
    from .spec.limits import Limits as Limits
    from .spec.profiles import ModelProfile as ModelProfile
    from .spec.scores import ScoreTable as ScoreTable
    from .spec.scores import read_scores as read_scores
    from .spec.scores import write_scores as write_scores
    from .training.fine_tuning import fine_tune as fine_tune
    from .training.settings import RecoverySettings as RecoverySettings
    from .workflows.export import export_model as export_model
    from .workflows.family import family as family
    from .workflows.family import family_on_devices as family_on_devices
    from .workflows.optimize import Optimized as Optimized
    from .workflows.optimize import optimize as optimize
    from .workflows.quantize import quantize_model as quantize_model
    from .workflows.recover import recover as recover
    from .workflows.refine import refine as refine
    from .workflows.score import score_model as score_model
    from .workflows.solve import solve_plans as solve_plans
    from .workflows.trim_vocabulary import trim_vocabulary as trim_vocabulary
    from .workflows.verify import verify as verify

_HOMES = {
    "recover": (".workflows.recover", "recover"),
    "RecoverySettings": (".training.settings", "RecoverySettings"),
    "Allocation": (".spec.allocation", "Allocation"),
    "CalibrationPlan": (".quantization.calibration", "CalibrationPlan"),
    "Choice": (".spec.choices", "Choice"),
    "CostReport": ("hwmodels", "CostReport"),
    "Device": ("hwmodels", "Device"),
    "DeviceError": (".errors", "DeviceError"),
    "Evaluation": (".evaluation.evaluate", "Evaluation"),
    "InfeasibleError": (".errors", "InfeasibleError"),
    "InputFileError": (".errors", "InputFileError"),
    "LabeledTexts": (".data.texts", "LabeledTexts"),
    "Limits": (".spec.limits", "Limits"),
    "LoadedModel": (".models.loading", "LoadedModel"),
    "ModelProfile": (".spec.profiles", "ModelProfile"),
    "Optimized": (".workflows.optimize", "Optimized"),
    "PlanConstraints": (".planning.constraints", "PlanConstraints"),
    "PlanningTask": (".planning.program", "PlanningTask"),
    "Predictor": (".serving.predictor", "Predictor"),
    "QbertOptError": (".errors", "QbertOptError"),
    "ScoreTable": (".spec.scores", "ScoreTable"),
    "SolverOptions": (".planning.solving", "SolverOptions"),
    "Storage": (".costs.operations", "Storage"),
    "UsageError": (".errors", "UsageError"),
    "Workload": (".costs.workload", "Workload"),
    "allocate": (".planning.planner", "allocate"),
    "default_grid": (".spec.grids", "default_grid"),
    "diagnose": (".scoring.diagnosing", "diagnose"),
    "evaluate": (".evaluation.evaluate", "evaluate"),
    "export_model": (".workflows.export", "export_model"),
    "family": (".workflows.family", "family"),
    "family_on_devices": (".workflows.family", "family_on_devices"),
    "fine_tune": (".training.fine_tuning", "fine_tune"),
    "from_module": (".models.modules", "from_module"),
    "layer_drops": (".scoring.layer_drops", "layer_drops"),
    "load_device": (".costs.devices", "load_device"),
    "load_model": (".models.loading", "load_model"),
    "load_quantized": (".checkpoint.reader", "load_quantized"),
    "measure_sensitivity": (".scoring.sensitivity", "measure_sensitivity"),
    "optimize": (".workflows.optimize", "optimize"),
    "outputs": (".evaluation.evaluate", "outputs"),
    "parse_budget": (".planning.budgets", "parse_budget"),
    "plan_for_each": (".planning.device_classes", "plan_for_each"),
    "print_plan": (".reports.plan", "print_plan"),
    "quantize_model": (".workflows.quantize", "quantize_model"),
    "read_allocation": (".spec.allocation", "read_allocation"),
    "read_scores": (".spec.scores", "read_scores"),
    "read_texts": (".data.texts", "read_texts"),
    "recipe_allocation": (".planning.recipes", "recipe_allocation"),
    "reference_scores": (".data.reference", "reference_scores"),
    "refine": (".workflows.refine", "refine"),
    "register": (".checkpoint.hub", "register"),
    "score_model": (".workflows.score", "score_model"),
    "simulate_allocation": (".costs.simulate", "simulate_allocation"),
    "solve_plans": (".workflows.solve", "solve_plans"),
    "trade_off": (".planning.frontier", "trade_off"),
    "trim_vocabulary": (".workflows.trim_vocabulary", "trim_vocabulary"),
    "verify": (".workflows.verify", "verify"),
    "write_allocation": (".spec.allocation", "write_allocation"),
    "write_checkpoint": (".checkpoint.writer", "write_checkpoint"),
    "write_scores": (".spec.scores", "write_scores"),
}
"""Public name to (module, name there); the block above says the same to type checkers, and a test compares them."""

__all__ = list(_HOMES)

if not TYPE_CHECKING:

    def __getattr__(name):
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home, original = _HOMES[name]
        return getattr(import_module(home, __name__), original)


def __dir__() -> list[str]:
    return sorted(_HOMES)
