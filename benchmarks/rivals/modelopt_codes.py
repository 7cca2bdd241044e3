"""ModelOpt's own rounding at given bits: by the squared error of weights, or by GPTQ, block after block.

PYTHON -m benchmarks.rivals.modelopt_codes REQUEST ANSWER [mse | gptq]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from benchmarks.rivals.asked import inputs, load, read_with_bits, write_weights

BIAS = {-1: None, "type": "static", "method": "max_min"}


def main() -> None:
    import modelopt.torch.quantization as mtq
    import torch

    asked, bits = read_with_bits(Path(sys.argv[1]))
    way = sys.argv[3]
    model, batches = load(asked), inputs(asked)
    bias = {"bias": BIAS} if way == "mse" else {}  # its GPTQ knows no offset
    config = [{"quantizer_name": "*", "enable": False}] + [
        {"quantizer_name": f"{module}.weight_quantizer", "cfg": {"num_bits": b, "axis": 0} | bias, "enable": True}
        for module, b in bits.items()
    ]

    @torch.no_grad()
    def calibrate(model: torch.nn.Module) -> None:
        for batch in batches:
            model(**batch)

    started = time.process_time()
    rounded = mtq.quantize(model, {"quant_cfg": config, "algorithm": {"method": way}}, forward_loop=calibrate)
    with torch.no_grad():
        for module in bits:
            layer = rounded.get_submodule(module)
            layer.weight.copy_(layer.weight_quantizer(layer.weight))
    write_weights(Path(sys.argv[2]), way, time.process_time() - started, rounded, bits)


if __name__ == "__main__":
    main()
