"""`qbert-opt calibrate`: measure this machine with one engine and write a device file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import options


def command(
    out: Annotated[Path, typer.Option("--out", "-o", help="Device file to write.")] = Path("host.yaml"),
    engine: Annotated[
        str, typer.Option("--engine", help="Engine to measure: torch, openvino or onnxruntime.")
    ] = "torch",
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision", help="torch: fp32 or bf16. Other engines: activations int8, int8-coarse or float32."
        ),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=3, max=100, help="Maximum number of timings per kernel.")] = 15,
    seconds: Annotated[
        float,
        typer.Option(
            "--seconds", min=1.0, help="Time to spend; refused if it is too short for three rounds of timings."
        ),
    ] = 150.0,
    quiet: options.Quiet = False,
) -> None:
    """Measure this machine with one engine on one thread: kernels, memories and small synthetic models.

    Examples:
    `qbert-opt calibrate -o host.yaml`, then `qbert-opt simulate allocation.json --device host.yaml`

    `qbert-opt calibrate --engine openvino -o host-openvino.yaml`
    """
    from ...device_profiling.benches import find_bench
    from ...device_profiling.calibrate import calibrate
    from ...reports.calibration import calibration_lines
    from ...reports.printing import print_lines
    from ...runtime.files import atomic_file, check_folder
    from ..progress import progress

    check_folder(out)
    bench = find_bench(engine, precision)
    with progress("calibrate", quiet=quiet) as on_step:
        calibration = calibrate(bench, rounds=rounds, limit_s=seconds, on_step=on_step)
    with atomic_file(out) as temporary:
        temporary.write_text(calibration.text, encoding="utf-8")
    print_lines(calibration_lines(calibration, str(out)))
