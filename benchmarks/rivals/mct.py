"""Sony's Model Compression Toolkit: distances of outputs, one matrix and width at a time, and CBC.

    PYTHON -m benchmarks.rivals.mct REQUEST ANSWER

It reads a model by symbolic tracing with torch.fx. Where that fails the answer says how.
"""

from __future__ import annotations

import importlib.machinery
import sys
import time
import types
from pathlib import Path

from benchmarks.rivals.asked import answer, load, read, refuse, tensors

PACKAGE = "model-compression-toolkit"


def main() -> None:
    # imported, and used for images alone; its wheel for processors is not on the package index
    stub = types.ModuleType("torchvision")
    stub.__spec__ = importlib.machinery.ModuleSpec("torchvision", None)
    sys.modules.setdefault("torchvision", stub)
    import model_compression_toolkit as mct

    asked = read(Path(sys.argv[1]))
    model, batches = load(asked), tensors(asked)
    inputs = [[rows for name, rows in batch.items() if name != "labels"] for batch in batches]
    started = time.process_time()
    config = mct.core.CoreConfig(
        mixed_precision_config=mct.core.MixedPrecisionQuantizationConfig(num_of_images=len(batches))
    )
    plans = []
    try:
        data = mct.core.pytorch_resource_utilization_data(model, lambda: iter(inputs), core_config=config)
        for code_bits in asked.code_bits:
            limit = mct.core.ResourceUtilization(weights_memory=data.weights_memory * code_bits / 8)
            _, info = mct.ptq.pytorch_post_training_quantization(
                model, lambda: iter(inputs), target_resource_utilization=limit, core_config=config
            )
            bits = dict(zip(asked.modules, info.mixed_precision_cfg, strict=True))
            plans.append({"way": "default", "code_bits": code_bits, "said": None, "satisfied": True, "bits": bits})
    except Exception as error:  # whatever it says is the answer
        refuse(Path(sys.argv[2]), PACKAGE, f"{type(error).__name__}: {str(error).splitlines()[0]}")
        return
    answer(Path(sys.argv[2]), PACKAGE, time.process_time() - started, plans)


if __name__ == "__main__":
    main()
