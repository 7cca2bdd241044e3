"""Sony's Model Compression Toolkit: distances of outputs, one matrix and width at a time, and CBC.

    PYTHON -m benchmarks.rivals.mct REQUEST ANSWER

It reads a model by symbolic tracing with torch.fx, which models of transformers do not survive: the answer is its own
message. A release that reads them stops this script, so that its plan is asked for.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
from pathlib import Path

from benchmarks.rivals.asked import load, read, refuse, tensors


def main() -> None:
    # imported always, and used for images alone; the wheel on the package index needs CUDA
    stub = types.ModuleType("torchvision")
    stub.__spec__ = importlib.machinery.ModuleSpec("torchvision", None)
    sys.modules.setdefault("torchvision", stub)
    import model_compression_toolkit as mct

    asked = read(Path(sys.argv[1]))
    model, batches = load(asked), tensors(asked)
    inputs = [[rows for name, rows in batch.items() if name != "labels"] for batch in batches]
    try:
        mct.core.pytorch_resource_utilization_data(model, lambda: iter(inputs))
    except Exception as error:  # whatever it says is the answer
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        refuse(Path(sys.argv[2]), "model-compression-toolkit", reason)
        return
    sys.exit("this release reads the model: ask it for a plan")


if __name__ == "__main__":
    main()
