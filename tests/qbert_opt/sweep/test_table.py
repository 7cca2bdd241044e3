"""Frontiers and choices, against their definitions written out."""

import json
from itertools import product

import numpy as np
import pytest

from qbert_opt.sweep.table import Row, _finished, _judged

BASE = {
    "model": "m", "data": "d", "metric": "directional", "method": "gptq", "device": "car-soc", "engine": None,
    "budget": "3bit",
}  # fmt: skip


def row(loss, size, latency=1.0, **more):
    return Row(**BASE | {"status": "done", "predicted_loss": loss, "total_bytes": size, "latency_s": latency} | more)


def test_the_frontier_is_what_nothing_beats():
    """Exhaustively: a row is off if and only if another one is nowhere worse and somewhere better."""
    generator = np.random.default_rng(0)
    rows = [row(*map(float, generator.integers(1, 5, 3))) for _ in range(40)]
    judged = _judged([(r, None) for r in rows])
    figures = [(r.predicted_loss, r.total_bytes, r.latency_s) for r in rows]
    for one, own in zip(judged, figures, strict=True):
        beaten = any(all(x <= y for x, y in zip(f, own, strict=True)) and f != own for f in figures)
        assert one.on_frontier is not beaten
    [chosen] = [r for r in judged if r.chosen]
    assert chosen.on_frontier
    assert (chosen.predicted_loss, chosen.total_bytes) == min((f[0], f[1]) for f in figures)


def test_one_model_for_each_device_and_task():
    """Models are compared by a quality of the task on the same text, and otherwise only with themselves."""
    models = [("a", 0.9, 0.01), ("b", 0.8, 0.001), ("c", None, 0.5)]
    rows = [
        (row(loss, 10, model=model, device=device, measured_loss=loss, quality=quality,
             quality_name=None if quality is None else "accuracy"), "test")
        for device, (model, quality, loss) in product(("car-soc", "rpi5"), models)
    ]  # fmt: skip
    chosen = [(r.device, r.model) for r in _judged(rows) if r.chosen]
    assert chosen == [("car-soc", "a"), ("car-soc", "c"), ("rpi5", "a"), ("rpi5", "c")]


@pytest.mark.parametrize("status", ["infeasible", "failed"])
def test_rows_without_a_plan_are_not_chosen(status):
    """They have no figures to compare."""
    judged = _judged([(row(1.0, 10), None), (row(None, None, None, status=status), None)])
    assert [(r.on_frontier, r.chosen) for r in judged] == [(True, True), (False, False)]


def test_measured_losses_are_taken_before_predicted_ones():
    """A plan that measured better is chosen although it was predicted worse."""
    rows = [row(0.1, 10, measured_loss=0.3), row(0.2, 10, measured_loss=0.25)]
    assert [r.chosen for r in _judged([(r, None) for r in rows])] == [False, True]


def test_measured_figures_are_read_from_what_evaluate_writes(tmp_path):
    """Loss with its interval, the task's own figure, flips, and the median of the last folder's timed runs."""
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "engine.json").write_text(json.dumps({"exported_bytes": 7}))
    timing = {"float": {"cpu_s": [9.0]}, "exported": {"cpu_s": [3.0, 1.0, 2.0]}}
    points = [{"name": "x", "loss": 0.2, "low": 0.1, "high": 0.3}]
    figures = {"accuracy": None, "entity_f1": {"value": 0.5, "low": 0.4, "high": 0.6}, "flipped": 3}
    (tmp_path / "measured.json").write_text(json.dumps({"points": points, "timing": timing} | figures))
    assert _finished({"export": tmp_path, "measure": tmp_path}) == {
        "exported_bytes": 7, "measured_loss": 0.2, "measured_low": 0.1, "measured_high": 0.3, "flipped": 3,
        "quality": 0.5, "quality_name": "entity_f1", "measured_latency_s": 2.0,
        "result": str(tmp_path / "measured.json"),
    }  # fmt: skip
