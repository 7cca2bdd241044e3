"""`qbert-opt simulate`: predict the cost of a plan on a device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from .. import options
from ..decoder_options import CacheOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hwmodels import CostReport, Device

    from ...costs.workload import Functions
    from ...spec.allocation import Allocation
    from ...spec.profiles import ModelProfile

Engine = Annotated[
    str | None,
    typer.Option(
        "--engine",
        help="Engine that runs it: counts the bytes of its file, and floating point where it has no integer "
        "product. Default: the engine that the plan was made for.",
    ),
]


@dataclass(frozen=True, slots=True)
class ViewOptions:
    """What is shown besides the report, and for which phase."""

    compare: Annotated[
        str | None,
        typer.Option(
            "--compare",
            help="What to compare with: the model as fp32, fp16 or uniform intN, or this plan with its nonlinear "
            "functions by table, poly, shift or in float; e.g. fp32,int8,table,float.",
        ),
    ] = None
    per_op: Annotated[
        str | None,
        typer.Option("--per-op", help="Show each operation, its bottleneck and what would help: table, csv or json."),
    ] = None
    roofline: Annotated[
        str | None, typer.Option("--roofline", help="Draw the roofline of all matrix products to this PNG or SVG.")
    ] = None
    timeline: Annotated[
        str | None, typer.Option("--timeline", help="Draw activations in memory over time to this PNG or SVG.")
    ] = None
    phase: Annotated[
        str | None,
        typer.Option(
            "--phase",
            help="Phase of a decoder that --compare, --per-op and the plots show: prefill, or decode (the default).",
        ),
    ] = None


def command(
    *,
    plan: Annotated[str, typer.Argument(help="An allocation.json.")],
    device: Annotated[
        str, typer.Option("--device", "-d", help="Target hardware: a YAML file or the name of a bundled device.")
    ],
    seq_len: options.SeqLen = None,
    lengths: Annotated[
        str | None, typer.Option("--lengths", help="Histogram of sentence lengths, TOKENS:FREQUENCY, e.g. 16:30,64:70.")
    ] = None,
    batch_size: options.BatchSize = 1,
    cache: CacheOptions,
    engine: Engine = None,
    nonlinearity: options.PricedFunctions = None,
    rate: Annotated[float | None, typer.Option("--rate", min=0.0, help="Inferences per second.")] = None,
    view: ViewOptions,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Predict latency, memory, traffic and energy of a plan on a device.

    Example: `qbert-opt simulate allocation.json --device car-soc --seq-len 128 --compare fp32,int8`
    """
    from hwmodels import CostReport, DeviceError

    from ...costs.functions import parse_functions, recorded
    from ...costs.phases import simulate_plan
    from ...costs.simulate import functions_of, planned_target, simulate_baselines
    from ...errors import InfeasibleError
    from ...reports.cost import cost_lines, function_line
    from ...reports.decoding import decoder_lines
    from ...reports.operations import operations_text
    from ...reports.printing import print_lines
    from ...spec.allocation import read_allocation
    from ..quantities import lengths as parse_lengths
    from ..quantities import listed

    cache.one_width()
    target = options.load_device(device)
    allocation = read_allocation(plan)
    workload = cache.workload(allocation.profile, seq_len, batch_size)
    if allocation.cache is not None and cache.cache_bits is None:
        workload = replace(workload, cache_bits=allocation.cache.bits)
    shows_prompt = _shows_prompt(view.phase, allocation.profile)
    functions = parse_functions(nonlinearity, allocation.profile, workload, target)
    workload = replace(workload, functions=functions)
    if lengths is not None:
        histogram = parse_lengths(lengths, "--lengths")
        _over_lengths(plan, allocation, target, histogram, batch_size, rate, engine, functions, as_json)
        return
    try:
        used = functions_of(allocation, workload, target, planned_target(allocation, target, engine))
        prompt, token = simulate_plan(allocation, target, workload, inferences_per_s=rate, engine=engine)
    except DeviceError as error:
        raise InfeasibleError(f"{plan}: {error}") from None
    report = prompt if shows_prompt or token is None else token
    names = listed(view.compare, "--compare") if view.compare is not None else ()
    shown = workload.phases[0 if shows_prompt else -1]
    each = "inference" if token is None else "prompt" if shows_prompt else "token"
    others = simulate_baselines(allocation, names, target, shown, inferences_per_s=rate, engine=engine)
    if view.roofline or view.timeline:
        _draw(report, target, view.roofline, view.timeline)
    if view.per_op:
        text = operations_text(report, view.per_op)
        typer.echo(text) if isinstance(text, str) else print_lines(text)
        if view.per_op == "table":
            _print_rest(report, others, each, (view.roofline, view.timeline))
        return
    if as_json:
        from pydantic import TypeAdapter

        if token is not None:
            both = {"prefill": prompt, "decode": token}
            typer.echo(TypeAdapter(dict[str, CostReport]).dump_json(both, indent=1).decode())
        else:
            typer.echo(TypeAdapter(CostReport).dump_json(report, indent=1).decode())
        return
    told = cost_lines(report) if token is None else decoder_lines(prompt, token, allocation, workload)
    print_lines([*told, function_line(report, recorded(used.functions))])
    _print_rest(report, others, each, (view.roofline, view.timeline))


def _shows_prompt(phase: str | None, profile: ModelProfile) -> bool:
    """Read `--phase`."""
    from ...costs.workload import check_decoder
    from ...errors import UsageError

    check_decoder(profile, phase=phase)
    if phase not in (None, "prefill", "decode"):
        raise UsageError(f"--phase {phase}: legal: prefill, decode.")
    return phase == "prefill"


def _draw(report: CostReport, device: Device, roofline: str | None, timeline: str | None) -> None:
    """Draw the plots that were asked for."""
    from ...reports.plots import memory, saving
    from ...reports.plots import roofline as roofs

    if roofline:
        saving.save(roofs.draw(report, device), roofline, "roofline")
    if timeline:
        saving.save(memory.draw(report), timeline, "timeline")


def _print_rest(
    report: CostReport, others: dict[str, CostReport | str], each: str, drawn: Sequence[str | None]
) -> None:
    """Print the comparison, if there is one, and the names of the plots that were written."""
    from ...reports.cost import comparison_table
    from ...reports.printing import print_lines

    if others:
        print_lines(["", comparison_table({"this plan": report, **others}, each)])
    print_lines([f"wrote {path}" for path in drawn if path])


def _over_lengths(
    plan: str,
    allocation: Allocation,
    target: Device,
    histogram: dict[int, float],
    batch_size: int,
    rate: float | None,
    engine: str | None,
    functions: Functions | None,
    as_json: bool,
) -> None:
    """Print the cost of inferences over a histogram of sentence lengths."""
    from pydantic import TypeAdapter

    from hwmodels import DeviceError, MixReport

    from ...costs.decoding import idle_limits, unwritten_file
    from ...costs.simulate import planned_target, simulate_lengths
    from ...costs.workload import workload_of
    from ...errors import InfeasibleError
    from ...reports.operations import mix_lines
    from ...reports.printing import print_lines

    for tokens in histogram:
        workload_of(allocation.profile, tokens)  # refuses what the model cannot read
    try:
        mix = simulate_lengths(
            allocation, target, histogram, batch_size=batch_size, inferences_per_s=rate, engine=engine,
            functions=functions,
        )  # fmt: skip
    except DeviceError as error:
        raise InfeasibleError(f"{plan}: {error}") from None
    if as_json:
        typer.echo(TypeAdapter(MixReport).dump_json(mix, indent=1).decode())
    else:
        runs_in = planned_target(allocation, target, engine)
        notes = (*unwritten_file(allocation.profile, runs_in), *idle_limits(allocation.profile, target))
        what = ", for the prompt alone" if allocation.profile.causal else ""
        lines = [f"on {target.id}, predicted{what}:", *mix_lines(mix, histogram)]
        print_lines([*lines, *(f"  note          {note}" for note in notes)])
