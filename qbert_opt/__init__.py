"""Plan, prove, predict and produce mixed-precision BERT-style models for small devices.

    import qbert_opt as qb

    plan = qb.allocate(qb.reference_scores(), qb.Limits(encoder_bytes=25_000_000), device=qb.load_device("car-soc"))

Names are loaded when first used: planning from a table of scores imports no torch.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "CalibrationPlan": ".quantization.calibration",
    "Limits": ".spec.limits",
    "PlanningTask": ".planning.program",
    "Predictor": ".serving.predictor",
    "RecoverySettings": ".training.settings",
    "Storage": ".costs.operations",
    "Workload": ".costs.operations",
    "allocate": ".planning.planner",
    "default_grid": ".spec.choices",
    "evaluate": ".evaluation.evaluate",
    "export_model": ".workflows.export",
    "from_module": ".models.modules",
    "load_device": "hwmodels.device",
    "load_model": ".models.loading",
    "load_quantized": ".checkpoint.reader",
    "measure_sensitivity": ".scoring.sensitivity",
    "outputs": ".evaluation.evaluate",
    "parse_budget": ".planning.budgets",
    "plan_for_each": ".planning.device_classes",
    "print_plan": ".reports.plan",
    "quantize_model": ".workflows.quantize",
    "read_allocation": ".spec.allocation",
    "recover": ".workflows.recover",
    "read_scores": ".spec.scores",
    "read_texts": ".data.texts",
    "recipe_allocation": ".planning.recipes",
    "reference_scores": ".data.reference",
    "register": ".checkpoint.hub",
    "simulate_allocation": ".costs.simulate",
    "trade_off": ".planning.frontier",
    "write_allocation": ".spec.allocation",
    "write_scores": ".spec.scores",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)
