"""Make the virtual environment of one rival, with the versions that the contest names.

    python -m benchmarks.rivals.environment RIVAL FOLDER     # makes FOLDER/RIVAL; `all` makes every one

Rivals live apart: their pins exclude each other and ours.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path

COMMON = ("torch==2.13.0", "safetensors", "numpy")
PINS = {
    # requests is imported, but not declared
    "modelopt": ("nvidia-modelopt==0.47.0", "transformers>=5,<5.15", "requests"),
    "autoround": ("auto-round==0.16.1", "transformers==5.23.0"),
    "nncf": ("nncf==3.4.0", "transformers==5.23.0"),
    "mct": ("model-compression-toolkit==2.6.1", "transformers==5.23.0"),
}


class MissingEnvironment(Exception):
    """A rival's environment is not there."""


def python_of(rival: str, folder: Path) -> Path:
    """The Python of a rival's environment.

    Raises:
        MissingEnvironment: it was not made, or not completely.
    """
    if rival not in PINS:
        raise MissingEnvironment(f"{rival}: not a rival. Legal: {', '.join(PINS)}.")
    place = folder / rival
    if not (place / ".ready").exists():
        command = f"python -m benchmarks.rivals.environment {rival} {folder}"
        raise MissingEnvironment(f"{rival}: no environment in {place}. Make it with `{command}`.")
    return place / "bin" / "python"


def make(rival: str, folder: Path) -> None:
    """Make a rival's environment; one that is complete stays as it is.

    Raises:
        MissingEnvironment: unknown rival, or pip did not find a pinned version.
    """
    if rival not in PINS:
        raise MissingEnvironment(f"{rival}: not a rival. Legal: {', '.join(PINS)}.")
    place = folder / rival
    if (place / ".ready").exists():
        return
    venv.create(place, with_pip=True, clear=True)
    command = [str(place / "bin" / "python"), "-m", "pip", "install", "-q", *COMMON, *PINS[rival]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        raise MissingEnvironment(f"{rival}: {errors[-1].removeprefix('ERROR: ')}")
    (place / ".ready").write_text("\n".join(PINS[rival]) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rival")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    rivals = list(PINS) if options.rival == "all" else [options.rival]
    failed = 0
    for rival in rivals:
        try:
            make(rival, options.folder)
            print(f"{rival}: {options.folder / rival}")
        except MissingEnvironment as error:
            print(error, file=sys.stderr)
            failed = 2
    return failed


if __name__ == "__main__":
    sys.exit(main())
