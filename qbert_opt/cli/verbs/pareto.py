"""`qbert-opt pareto`: the Pareto frontier of loss over budgets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from .. import options
from ..decoder_options import CacheOptions
from ..depth_family import FamilyOptions, check_family, print_family, print_family_on_devices
from ..progress import progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hwmodels import Device

    from ...costs.workload import Workload
    from ...planning.frontier import TradeOff
    from ...spec.scores import ScoreTable
    from ...workflows.frontiers import Curve, Subject

MOST_POINTS = 10_000  # a plan is solved for each


@dataclass(frozen=True, slots=True)
class PictureOptions:
    """The plot of a frontier, and what else it shows."""

    plot: Annotated[str | None, typer.Option("--plot", help="Draw the frontier to this PNG or SVG.")] = None
    devices: Annotated[
        str | None,
        typer.Option("--devices", help="Comma-separated devices: the best plan and a curve for each."),
    ] = None
    compare: Annotated[
        list[str] | None,
        typer.Option("--compare", help="LABEL=scores.json: add another metric or quantizer to the plot."),
    ] = None
    plan: Annotated[str | None, typer.Option("--plan", help="An allocation.json to mark in the plot.")] = None
    measured: Annotated[str | None, typer.Option("--measured", help="Measured points (JSON) to add to the plot.")] = (
        None
    )


def command(
    *,
    scores: options.Scores = None,
    device: options.Device = None,
    resource: Annotated[
        str,
        typer.Option(
            "--resource",
            help="Resource: bytes, total-bytes, latency, token (latency of a decoder step), energy, dram or bops; or "
            "two, separated by a comma.",
        ),
    ] = "bytes",
    points: Annotated[
        int | None,
        typer.Option(
            "--points",
            min=2,
            max=MOST_POINTS,
            help="Number of budgets between the smallest and the largest; by default 200, with --allow-drop 12.",
        ),
    ] = None,
    seq_len: options.SeqLen = None,
    batch_size: options.BatchSize = 1,
    cache: CacheOptions,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="Write the frontier to this .json or .csv; an interrupted run resumes."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    depth: FamilyOptions,
    columns: options.TextOptions,
    picture: PictureOptions,
    quiet: options.Quiet = False,
) -> None:
    """Compute the Pareto frontier: the best plan for every budget of bytes, latency, energy or DRAM traffic.

    Examples:
    `qbert-opt pareto --device car-soc --points 200 -o frontier.csv --plot frontier.svg`

    `qbert-opt pareto --devices car-soc,rpi5,coral --plot devices.png`

    `qbert-opt pareto --scores scores.json --model DIR --data TEXT --allow-drop 2 --devices car-soc,rpi5 --plans plans`
    """
    from ...reports.printing import print_lines
    from ...workflows.frontiers import Curve, frontiers
    from ..quantities import resources

    table = options.load_scores(scores or "reference")
    _check(picture, device, output)
    cache.one_width()
    names, workload = resources(resource), cache.workload(table.profile, seq_len, batch_size)
    if depth.allow_drop is not None:
        check_family(depth, names, picture.plot, output)
        if picture.devices is not None:
            found = _devices(picture.devices)
            print_family_on_devices(table, depth, columns, found, workload, as_json=as_json, quiet=quiet)
        else:
            target = options.load_target(device)
            print_family(table, depth, columns, names[0], points or 12, target, workload, as_json=as_json, quiet=quiet)
        return
    points = points or 200
    curves: list[Curve] = []
    if picture.devices is None:
        of = _subjects(table, [options.load_target(device)], picture.compare)
        curve = _frontier(of[0], names, points, workload, output, quiet)
        _print_frontier(curve, as_json)
        curves.append(Curve(of[0].label, curve))
    else:
        devices = _devices(picture.devices)
        of = _subjects(table, devices, picture.compare)
        _print_devices(table, devices, workload, as_json)
    if picture.plot is not None:
        curves += frontiers(of[len(curves) :], names, points=points, workload=workload)
        _draw(picture, of[0], curves, names, workload)
    if not as_json:
        print_lines([f"wrote {path}" for path in (output, picture.plot) if path is not None])


def _check(picture: PictureOptions, device: str | None, output: str | None) -> None:
    """Refuse options that contradict each other, before any work is done."""
    from ...errors import UsageError
    from ...reports.plots.saving import check_ending

    if output is not None and not output.endswith((".json", ".csv")):
        raise UsageError(f"--output {output}: legal endings: .json, .csv.")
    if device is not None and picture.devices is not None:
        raise UsageError("--device and --devices: give one of them.")
    if picture.devices is not None and output is not None:
        raise UsageError("--devices: prints a table or JSON; --output writes the frontier of one --device.")
    if picture.plot is not None:
        check_ending(picture.plot)


def _devices(text: str) -> list[Device]:
    """Read the devices of `--devices`; a device named twice is refused, as its curves would coincide."""
    from ...errors import UsageError
    from ..quantities import listed

    devices = [options.load_device(name, "--devices ") for name in listed(text, "--devices")]
    ids = [device.id for device in devices]
    if twice := [name for number, name in enumerate(ids) if name in ids[:number]]:
        raise UsageError(f"--devices {text}: {twice[0]} is named twice. Keep one of them.")
    return devices


def _subjects(scores: ScoreTable, devices: Sequence[Device | None], compare: Sequence[str] | None) -> list[Subject]:
    """Pair the scores, and those of each `--compare LABEL=FILE`, with every device."""
    from ...errors import InputFileError, UsageError
    from ...workflows.frontiers import subjects

    tables = [(f"{scores.metric} {scores.method}", scores)]
    for text in compare or ():
        label, _, path = text.partition("=")
        if not label or not path:
            raise UsageError(f"--compare {text}: not of the form LABEL=scores.json, for example rtn=rtn.json.")
        if label in [name for name, _ in tables]:
            raise UsageError(f"--compare {text}: {label} is the name of another curve already. Give another name.")
        other = options.load_scores(path)
        if other.profile.sha256 != scores.profile.sha256:
            raise InputFileError(
                f"--compare {text}: scores of {other.profile.name}, not of {scores.profile.name} (the hashes of their "
                "weights differ). Give scores of the same model."
            )
        tables.append((label, other))
    return subjects(tables, devices)


def _frontier(
    of: Subject, names: tuple[str, ...], points: int, workload: Workload, output: str | None, quiet: bool
) -> TradeOff:
    """Compute a frontier and write it to `--output`; an interrupted run keeps finished plans beside that file."""
    from ...planning.frontier import to_csv, trade_off
    from ...planning.program import PlanningTask
    from ...runtime.files import write_text
    from ...spec.limits import Limits

    task = PlanningTask(of.scores, Limits(), device=of.device, workload=workload)
    checkpoint = None if output is None else f"{output}.partial"
    with progress("frontier", quiet=quiet or checkpoint is None, resume=checkpoint) as tell:
        curve = trade_off(task, names, points=points, checkpoint=checkpoint, progress=tell)
    if output is not None:
        write_text(output, to_csv(curve) if output.endswith(".csv") else curve.model_dump_json(by_alias=True) + "\n")
    return curve


def _print_frontier(curve: TradeOff, as_json: bool) -> None:
    from ...reports.printing import print_lines
    from ...reports.trade_off import frontier_table

    if as_json:
        typer.echo(curve.model_dump_json(by_alias=True, indent=1))
    else:
        print_lines([frontier_table(curve)])


def _print_devices(scores: ScoreTable, devices: Sequence[Device], workload: Workload, as_json: bool) -> None:
    """Print the best plan for each device."""
    from pydantic import TypeAdapter

    from ...planning.device_classes import DevicePlan, plan_for_each
    from ...reports.devices import device_table
    from ...reports.printing import print_lines
    from ...spec.limits import Limits

    plans = plan_for_each(scores, devices, Limits(), workload)
    if as_json:
        typer.echo(TypeAdapter(list[DevicePlan]).dump_json(plans, by_alias=True, indent=1).decode())
    else:
        print_lines([device_table(plans)])


def _draw(
    picture: PictureOptions, of: Subject, curves: Sequence[Curve], names: tuple[str, ...], workload: Workload
) -> None:
    """Draw the curves with the marks of the first subject."""
    from ...planning.measured_points import read_measured
    from ...reports.plots.saving import save
    from ...reports.plots.trade_off import draw
    from ...spec.allocation import read_allocation
    from ...workflows.frontiers import marks

    shown = marks(
        of,
        plan=None if picture.plan is None else read_allocation(picture.plan),
        measured=None if picture.measured is None else read_measured(picture.measured),
        workload=workload,
    )
    save(draw(curves, names, shown), str(picture.plot))
