"""`qbert-opt sweep`: many models, devices and budgets, each step done once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from .. import options
from ..progress import progress

if TYPE_CHECKING:
    from ...sweep.cluster import Workers

WORKERS, SCHEDULER = "Workers on this machine", "Workers elsewhere"


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """The processes that do the work."""

    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Processes; by default one for each core.", rich_help_panel=WORKERS),
    ] = None
    threads: Annotated[
        int, typer.Option("--threads", min=1, help="Threads of PyTorch in each worker.", rich_help_panel=WORKERS)
    ] = 1
    worker_memory: Annotated[
        str | None,
        typer.Option(
            "--worker-memory",
            help="Memory of a worker, e.g. 8GiB, above which it is killed; by default an equal share of the machine's.",
            rich_help_panel=WORKERS,
        ),
    ] = None
    dashboard: Annotated[
        str | None,
        typer.Option(
            "--dashboard",
            help="Show Dask's dashboard at this address, e.g. 127.0.0.1:8787 (needs bokeh).",
            rich_help_panel=WORKERS,
        ),
    ] = None
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler",
            help="A running Dask scheduler instead: tls://HOST:PORT, or tcp://127.0.0.1:PORT.",
            rich_help_panel=SCHEDULER,
        ),
    ] = None
    tls_ca: Annotated[
        str | None, typer.Option("--tls-ca", help="Certificate authority (PEM).", rich_help_panel=SCHEDULER)
    ] = None
    tls_cert: Annotated[
        str | None, typer.Option("--tls-cert", help="Your certificate (PEM).", rich_help_panel=SCHEDULER)
    ] = None
    tls_key: Annotated[str | None, typer.Option("--tls-key", help="Its key (PEM).", rich_help_panel=SCHEDULER)] = None

    def read(self) -> Workers:
        """Return the processes that do the work.

        Raises:
            UsageError: an option is not a quantity of its kind.
        """
        from ...sweep.cluster import Workers
        from ..quantities import size

        tls = {"tls_ca": self.tls_ca, "tls_cert": self.tls_cert, "tls_key": self.tls_key}
        memory = size(self.worker_memory, "--worker-memory")
        return Workers(self.workers, self.threads, memory, self.scheduler, tls, self.dashboard)


def command(
    *,
    source: Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep file (YAML); docs/sweep.md describes it.")],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder for the tables; a killed sweep resumes there.")],
    cache: Annotated[
        str | None,
        typer.Option("--cache", help="Folder of every step's result; by default 'artifacts' in the output."),
    ] = None,
    who: WorkerOptions,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Score, plan, quantize, export and measure every combination of a sweep file, each step once.

    Writes one table (sweep.parquet, sweep.csv, sweep.html) with the frontier of each device and one model for each.
    A combination that fails is a row with its reason; exit code 4 if any failed, 3 if none has a plan.

    Example: `qbert-opt sweep sweep.yaml -o overnight --workers 4`
    """
    from ...errors import InfeasibleError, InputFileError
    from ...reports.printing import print_lines
    from ...reports.sweep import sweep_json, sweep_lines, write_page
    from ...sweep.run import sweep

    with progress("sweep", quiet=quiet) as tell:
        swept = sweep(source, output, cache=cache, workers=who.read(), progress=tell)
    page = write_page(swept)
    if as_json:
        typer.echo(sweep_json(swept))
    else:
        print_lines([*sweep_lines(swept), f"wrote {', '.join(map(str, (*swept.files, page)))}"])
    if swept.failed:
        first = swept.failed[0]
        raise InputFileError(
            f"{len(swept.failed)} of {len(swept.rows)} rows failed; the first, {first.model} at step {first.step}: "
            f"{first.reason}"
        )
    if all(row.status == "infeasible" for row in swept.rows):
        raise InfeasibleError(f"no row has a plan; the first, {swept.rows[0].model}: {swept.rows[0].reason}")
