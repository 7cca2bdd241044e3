"""AutoRound's AutoScheme: Σ|∂loss/∂W_q ⊙ ΔW| in the quantized model, and exact dynamic programming.

    PYTHON -m benchmarks.rivals.autoround REQUEST ANSWER

Its loader takes the names of data sets, cuts texts to one length and gives the input as labels; it is replaced by our
batches with the task's labels. One range per row, not counted; 8 bits symmetric, as it demands, the others with a
zero point.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.rivals.asked import answer, has_loss, load, read, refuse, tensors

PACKAGE = "auto-round"


def main() -> None:
    with tempfile.TemporaryDirectory() as cache:
        os.environ["AR_AUTO_SCHEME_CACHE"] = cache  # scores of earlier runs would take no time
        run()


def run() -> None:
    from auto_round import AutoScheme
    from auto_round.auto_scheme import delta_loss
    from auto_round.auto_scheme.gen_auto_scheme import GenScheme
    from auto_round.schemes import QuantizationScheme
    from transformers import AutoTokenizer

    asked = read(Path(sys.argv[1]))
    if not has_loss(asked):
        refuse(Path(sys.argv[2]), PACKAGE, "AutoScheme needs the gradient of a loss, which embeddings do not have")
        return
    model, batches = load(asked), tensors(asked)
    delta_loss.get_dataloader = lambda *args, **options: batches
    options = [QuantizationScheme(bits=b, group_size=-1, sym=b == 8, data_type="int", act_bits=16) for b in asked.bits]
    scheme = AutoScheme(
        avg_bits=list(asked.code_bits), options=options, ignore_scale_zp_bits=True, nsamples=len(batches),
        low_gpu_mem_usage=False, low_cpu_mem_usage=False, enable_torch_compile=False,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    started = time.process_time()
    layers = list(asked.modules)
    found = GenScheme(scheme, model, layers, {}, dataset="ours", device_map="cpu", tokenizer=tokenizer)
    configs = found.get_layer_config()
    scoring_s = time.process_time() - started
    plans = [
        {"way": "AutoScheme", "code_bits": code_bits, "said": None, "satisfied": True,
         "bits": {module: config[module]["bits"] for module in asked.modules}}
        for code_bits, config in zip(asked.code_bits, configs.values(), strict=True)
    ]  # fmt: skip
    answer(Path(sys.argv[2]), PACKAGE, scoring_s, plans)


if __name__ == "__main__":
    main()
