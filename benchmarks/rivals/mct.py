"""Sony's Model Compression Toolkit: distances of outputs, one matrix and width at a time, and CBC.

    PYTHON -m benchmarks.rivals.mct REQUEST ANSWER

It reads a model by symbolic tracing with torch.fx, which models of transformers do not survive: the answer is its own
message. A release that reads them stops this script, so that its plan is asked for.
"""

from __future__ import annotations

import importlib.machinery
import sys
import traceback
from pathlib import Path
from unittest.mock import MagicMock

from benchmarks.rivals.asked import inputs, load, read, refuse


def main() -> None:
    asked = read(Path(sys.argv[1]))
    model, batches = load(asked), inputs(asked)  # transformers must not meet the stubs
    # imported always, and used for images alone; the wheel on the package index needs CUDA
    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.transforms"):
        stub = MagicMock(__path__=[], __spec__=importlib.machinery.ModuleSpec(name, None))
        sys.modules.setdefault(name, stub)
    import model_compression_toolkit as mct

    try:
        mct.core.pytorch_resource_utilization_data(model, lambda: iter([list(batch.values()) for batch in batches]))
    except Exception as error:  # whatever it says is the answer
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{frame.name} of {'/'.join(Path(frame.filename).parts[-3:])}"
        reason = f"{type(error).__name__} in {where}: {str(error).splitlines()[0]}"
        refuse(Path(sys.argv[2]), "model-compression-toolkit", reason)
        return
    sys.exit("this release reads the model: ask it for a plan")


if __name__ == "__main__":
    main()
