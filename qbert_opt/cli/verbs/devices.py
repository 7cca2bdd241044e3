"""`qbert-opt devices`: the bundled devices, and checks for device files."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import options

app = typer.Typer(no_args_is_help=True, help="List, show and check device files.")


@app.command("list")
def list_() -> None:
    """List the bundled devices.

    Example: `qbert-opt devices list`
    """
    from hwmodels import device_names, load_device, sourced_share

    for name in device_names():
        device = load_device(name)
        sourced, figures = sourced_share(device)
        typer.echo(f"{name:16} {device.name} ({device.confidence}, {sourced} of {figures} figures sourced)")


@app.command()
def show(device: Annotated[str, typer.Argument(help="A YAML file or the name of a bundled device.")]) -> None:
    """Show every figure of a device with its source.

    Example: `qbert-opt devices show car-soc`
    """
    from ...reports.cost import device_table
    from ...reports.printing import print_lines

    print_lines(device_table(options.load_device(device, "")))


@app.command()
def check(file: Annotated[str, typer.Argument(help="Device file (YAML).")]) -> None:
    """Check a device file and count the figures that are assumed.

    Example: `qbert-opt devices check my-soc.yaml`
    """
    from hwmodels import sourced_share

    from ...runtime.plain_text import one_line

    device = options.load_device(file, "")
    sourced, figures = sourced_share(device)
    typer.echo(f"{one_line(file)}: valid; {sourced} of {figures} figures have a source, the others are assumed")


@app.command()
def schema() -> None:
    """Print the JSON schema of a device file, for an editor.

    Example: `qbert-opt devices schema > device.schema.json`
    """
    import json

    from hwmodels import device_schema

    typer.echo(json.dumps(device_schema(), indent=1))
