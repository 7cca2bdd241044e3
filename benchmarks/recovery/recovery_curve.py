"""Draw what training brings back: KL and accuracy on unseen text against processor minutes, one curve per run.

    python -m benchmarks.recovery.recovery_curve benchmarks/recovery/recovery_results.jsonl docs/recovery.svg

Reads what `recovery.py` wrote. A run begins at the row of the quantizer's codes that precedes it in the file; bars are
the 95 % intervals of the rows.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from qbert_opt.reports.plots.saving import save
from qbert_opt.reports.plots.style import COLOURS, MARKERS, plain_numbers, tidy

FEWEST = 3  # rows of a run that is drawn, its start included


def curves(rows: list[dict]) -> Iterator[tuple[str, list[dict]]]:
    """Yield each run's name and its rows in order of time, from the codes that it began with."""
    runs: dict[str, list[dict]] = {}
    begin: dict = {}
    for row in rows:
        if row["phase"] == "start":
            begin = row | {"cpu_minutes": 0.0}
        elif row["phase"] != "folder":  # the same state as the phase before
            key = json.dumps([row[name] for name in ("run", "seed", "epochs", "rates")])
            runs.setdefault(key, [begin]).append(row)
    yield from ((name_of(found), found) for found in runs.values() if len(found) >= FEWEST)


def name_of(rows: list[dict]) -> str:
    """A run as the steps that it reached, with passes over the text and the learning rate of weights."""
    last = rows[-1]
    reached = {row["phase"].split()[0] for row in rows}
    parts = [
        f"{step} × {passes:g}" + (f" at {last['rates'][step][0]:g}" if step in last["rates"] else "")
        for step, passes in last["epochs"].items()
        if step in reached
    ]
    kind = "" if last["run"] == "plain" else f"{last['run']}: "
    return f"{kind}{', '.join(parts)}, seed {last['seed']}"


def draw(rows: list[dict]) -> Figure:
    """Draw KL beside accuracy."""
    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, (name, found) in enumerate(curves(rows)):
        style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)], "markersize": 4}
        minutes, losses = [row["cpu_minutes"] for row in found], [row["kl"] for row in found]
        bars = [[kl - low for kl, low, _ in losses], [high - kl for kl, _, high in losses]]
        left.errorbar(minutes, [kl for kl, _, _ in losses], bars, label=name, elinewidth=0.6, capsize=2, **style)
        right.plot(minutes, [row["accuracy"] for row in found], **style)
    for axes, what in ((left, "KL on unseen text, nats"), (right, "accuracy on unseen text, %")):
        tidy(axes)
        axes.set_xlabel("processor minutes of training")
        axes.set_ylabel(what)
    left.set_ylim(bottom=0.0)
    plain_numbers(left.yaxis)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", fontsize=7, frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results")
    parser.add_argument("picture")
    options = parser.parse_args()
    rows = [json.loads(line) for line in Path(options.results).read_text(encoding="utf-8").splitlines()]
    save(draw(rows), options.picture)


if __name__ == "__main__":
    main()
