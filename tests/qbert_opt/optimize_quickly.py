"""`optimize` with fewer measurements, where a test is about its steps and not about how well they are measured."""

from functools import partial

from qbert_opt.planning.frontier import trade_off


def optimize_quickly(monkeypatch):
    """Time each model once instead of in two turns, judge plans by 2 folds instead of 8, and report few budgets.

    Args:
        monkeypatch: until when.
    """
    monkeypatch.setattr(
        "qbert_opt.workflows.comparison.median_cpu_in_turns",
        lambda timed: {name: time().median_cpu_s for name, time in timed.items()},
    )
    monkeypatch.setattr("qbert_opt.scoring.folds.NUM_FOLDS", 2)  # each solves every plan once more
    report_few_budgets(monkeypatch)


def report_few_budgets(monkeypatch):
    """Draw the frontier of a report from 20 budgets instead of 200.

    Args:
        monkeypatch: until when.
    """
    monkeypatch.setattr("qbert_opt.reports.decision.trade_off", partial(trade_off, points=20))
