"""The options and the output of a family of plans over sizes and depths: `pareto --allow-drop`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, cast

import typer

from .progress import progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hwmodels import Device

    from ..costs.workload import Workload
    from ..scoring.layer_drops import Shortened
    from ..spec.allocation import Allocation
    from ..spec.scores import ScoreTable
    from ..workflows.family import Size
    from .options import TextOptions

PANEL = "Depth"


@dataclass(frozen=True, slots=True)
class FamilyOptions:
    """How many layers a plan may leave out, and which model is measured without them."""

    allow_drop: Annotated[
        int | None,
        typer.Option(
            "--allow-drop",
            min=1,
            rich_help_panel=PANEL,
            help="Maximum number of encoder layers that a plan may leave out (needs --model, --data): the best plan of "
            "any depth for each budget, or for each of --devices.",
        ),
    ] = None
    model: Annotated[
        str | None, typer.Option("--model", "-m", rich_help_panel=PANEL, help="The model of --scores.")
    ] = None
    data: Annotated[
        str | None, typer.Option("--data", rich_help_panel=PANEL, help="The text that --scores were made with.")
    ] = None
    plans: Annotated[
        str | None,
        typer.Option("--plans", rich_help_panel=PANEL, help="Write each plan of --allow-drop into this new folder."),
    ] = None


def check_family(depth: FamilyOptions, names: Sequence[str], plot: str | None, output: str | None) -> None:
    """Refuse options that do not apply to a family, before any work is done.

    Args:
        depth: options with a value of `--allow-drop`.
        names: values of `--resource`.
        plot: value of `--plot`.
        output: value of `--output`.

    Raises:
        UsageError: names the option.
    """
    from ..errors import UsageError
    from ..workflows.family import LIMITED

    if depth.model is None or depth.data is None:
        raise UsageError("--allow-drop: needs --model and --data, to measure the model without its layers.")
    if len(names) != 1 or names[0] not in LIMITED:
        raise UsageError(f"--resource {','.join(names)}: with --allow-drop legal: {', '.join(LIMITED)}.")
    if plot is not None:
        raise UsageError("--allow-drop: a plot shows plans of one depth. Remove --plot.")
    if output is not None:
        raise UsageError("--output: writes the frontier of one depth. With --allow-drop, --plans DIR writes each plan.")


def print_family(
    scores: ScoreTable,
    depth: FamilyOptions,
    columns: TextOptions,
    resource: str,
    points: int,
    device: Device | None,
    workload: Workload,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Find the best plan of any depth for each budget; print and write them.

    Args:
        scores: of the whole model.
        depth: names the model and its text, and the folder to write.
        columns: of that text, and its split.
        resource: of the budgets.
        points: number of budgets.
        device: target hardware, or None.
        workload: sentences and tokens of one inference.
        as_json: print JSON.
        quiet: report no progress.
    """
    from ..reports.devices import family_table
    from ..reports.printing import print_lines
    from ..workflows.family import family

    shortened = _measured(scores, depth, columns, quiet)
    with progress("family", quiet=quiet) as tell:
        members = family(
            scores, shortened, cast("Size", resource), points=points, device=device, workload=workload, progress=tell
        )
    plans = [member.plan for member in members]
    if as_json:
        typer.echo(f"[{','.join(plan.model_dump_json(by_alias=True, indent=1) for plan in plans)}]")
    else:
        print_lines([family_table(members)])
    _write(((f"{n:02d}-{plan.total_bytes}-bytes", plan) for n, plan in enumerate(plans, 1)), depth.plans, as_json)


def print_family_on_devices(
    scores: ScoreTable,
    depth: FamilyOptions,
    columns: TextOptions,
    devices: Sequence[Device],
    workload: Workload,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Find the best plan of any depth for each device; print and write them.

    Args:
        scores: of the whole model.
        depth: names the model and its text, and the folder to write.
        columns: of that text, and its split.
        devices: target hardware.
        workload: sentences and tokens of one inference.
        as_json: print JSON.
        quiet: report no progress.
    """
    from pydantic import TypeAdapter

    from ..planning.device_classes import DevicePlan
    from ..reports.devices import device_table
    from ..reports.printing import print_lines
    from ..spec.limits import Limits
    from ..workflows.family import family_on_devices

    shortened = _measured(scores, depth, columns, quiet)
    with progress("devices", quiet=quiet) as tell:
        found = family_on_devices(scores, shortened, devices, Limits(), workload, progress=tell)
    if as_json:
        typer.echo(TypeAdapter(list[DevicePlan]).dump_json(found, by_alias=True, indent=1).decode())
    else:
        print_lines([device_table(found, depth=True)])
    _write(((item.device, item.plan) for item in found if item.plan is not None), depth.plans, as_json)


def _measured(scores: ScoreTable, depth: FamilyOptions, columns: TextOptions, quiet: bool) -> tuple[Shortened, ...]:
    from ..models.loading import load_model
    from ..scoring.layer_drops import layer_drops
    from ..workflows.left_out import same_text

    loaded, _, texts = same_text(scores, load_model(str(depth.model)), columns.read(str(depth.data)))
    with progress("layers left out", quiet=quiet) as tell:
        return layer_drops(loaded, texts, depth.allow_drop or 0, progress=tell)


def _write(plans: Iterable[tuple[str, Allocation]], output: str | None, as_json: bool) -> None:
    from ..reports.printing import print_lines
    from ..runtime.files import atomic_folder
    from ..spec.allocation import write_allocation

    if output is None:
        return
    with atomic_folder(output) as folder:
        for name, plan in plans:
            write_allocation(plan, folder / f"{name}.json")
    if not as_json:
        print_lines([f"wrote {output}"])
