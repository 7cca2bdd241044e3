"""`qbert-opt calibrate`: measure this machine, or a board without qbert-opt, with one engine; write a device file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import options


def command(
    out: Annotated[str, typer.Option("--out", "-o", help="Device file to write.")] = "host.yaml",
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
    bundle: Annotated[
        Path | None,
        typer.Option(
            "--bundle", help="Folder to write for another board: ONNX models and a script that needs onnxruntime."
        ),
    ] = None,
    from_bundle: Annotated[
        Path | None, typer.Option("--from-bundle", help="Result of a bundle's script, to turn into the device file.")
    ] = None,
    quiet: options.Quiet = False,
) -> None:
    """Measure this machine with one engine on one thread: kernels, memories and small synthetic models.

    `--bundle` measures another board: copy the folder there, run `python3 measure.py`, and pass its result to
    `--from-bundle`.

    Examples:
    `qbert-opt calibrate -o host.yaml`, then `qbert-opt simulate allocation.json --device host.yaml`

    `qbert-opt calibrate --engine openvino -o host-openvino.yaml`

    `qbert-opt calibrate --bundle board`, then `qbert-opt calibrate --from-bundle result.json -o board.yaml`
    """
    from ...reports.calibration import calibration_lines
    from ...reports.printing import print_lines
    from ...runtime.files import atomic_file, check_folder
    from ..progress import progress

    if bundle is not None:
        _write_bundle(bundle, precision, quiet)
        return
    check_folder(Path(out))
    if from_bundle is not None:
        from ...device_profiling.board_result import calibration_from

        calibration = calibration_from(from_bundle)
    else:
        from ...device_profiling.benches import find_bench
        from ...device_profiling.calibrate import calibrate

        bench = find_bench(engine, precision)
        with progress("calibrate", quiet=quiet) as on_step:
            calibration = calibrate(bench, rounds=rounds, limit_s=seconds, on_step=on_step)
    with atomic_file(Path(out)) as temporary:
        temporary.write_text(calibration.text, encoding="utf-8")
    print_lines(calibration_lines(calibration, out))


def _write_bundle(folder: Path, precision: str | None, quiet: bool) -> None:
    """Write a bundle and say what to do with it.

    Raises:
        UsageError: the precision is unknown, or the folder cannot be written.
    """
    from ...device_profiling.bundle import write_bundle
    from ...engines.session import ACTIVATIONS
    from ...errors import UsageError
    from ...reports.printing import print_lines
    from ..progress import progress

    given = precision or "int8"
    activations = next((name for name in ACTIVATIONS if name == given), None)
    if activations is None:
        raise UsageError(f"`precision` {given}: not supported by onnxruntime. Legal: {', '.join(ACTIVATIONS)}.")
    with progress("bundle", quiet=quiet) as on_step:
        write_bundle(folder, activations, on_step=on_step)
    print_lines(
        [
            f"wrote {folder}: copy it to the board and run there: pip install onnxruntime; python3 measure.py",
            "then here: qbert-opt calibrate --from-bundle result.json -o board.yaml",
        ]
    )
