"""Plan, prove, predict and produce mixed-precision BERT-style models for small devices.

    import qbert_opt as qb

    plan = qb.allocate(qb.reference_scores(), qb.Limits(encoder_bytes=25_000_000), device=qb.load_device("car-soc"))

Names are loaded when first used: planning from a table of scores imports no torch.
"""

from importlib import import_module
from typing import Any

from . import importing

_HOMES = {
    "CalibrationPlan": ".calibration",
    "Limits": ".limits",
    "PlanningTask": ".planning.programs",
    "Predictor": ".deployment.prediction",
    "Storage": ".costs.operations",
    "Workload": ".costs.operations",
    "allocate": ".planning.planner",
    "default_grid": ".choices",
    "evaluate": ".evaluation",
    "export_model": ".deployment.exporting",
    "from_module": ".models.modules",
    "load_device": "hwmodels",
    "load_model": ".models.loading",
    "load_quantized": ".packing.artifact",
    "measure_sensitivity": ".scoring.sensitivity",
    "outputs": ".evaluation",
    "parse_budget": ".planning.budgets",
    "plan_for_each": ".planning.device_classes",
    "print_plan": ".reports.plan",
    "quantize_model": ".deployment.deploy",
    "read_allocation": ".allocation",
    "read_scores": ".scores",
    "read_texts": ".texts",
    "recipe_allocation": ".planning.recipes",
    "reference_scores": ".reference",
    "simulate_allocation": ".costs.simulate",
    "trade_off": ".planning.frontier",
    "write_allocation": ".allocation",
    "write_scores": ".scores",
}

__all__ = list(_HOMES)

# AutoModel….from_pretrained reads our folders; transformers itself is imported by whoever needs it
importing.after("transformers.quantizers.auto", f"{__name__}.packing.hub")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)
