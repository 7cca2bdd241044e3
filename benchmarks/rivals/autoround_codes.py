"""AutoRound's own rounding at given bits: its default of 200 steps of signed gradient descent per block.

    PYTHON -m benchmarks.rivals.autoround_codes REQUEST ANSWER

It reads batches of one length that end in padding and hold at most eight texts, so ours are padded and cut to that.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from benchmarks.rivals.asked import inputs, load, read_with_bits, write_weights

BATCH = 8  # its default


def main() -> None:
    import torch
    from auto_round import AutoRound
    from transformers import AutoTokenizer

    asked, bits = read_with_bits(Path(sys.argv[1]))
    model, batches = load(asked), inputs(asked)
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    longest = 1 + max(batch["input_ids"].shape[1] for batch in batches)

    def padded(name: str, rows: torch.Tensor) -> torch.Tensor:
        filler = tokenizer.pad_token_id if name == "input_ids" else 0
        return torch.nn.functional.pad(rows, (0, longest - rows.shape[1]), value=filler)

    dataset = [
        {name: padded(name, rows[start : start + BATCH]) for name, rows in batch.items()}
        for batch in batches
        for start in range(0, len(batch["input_ids"]), BATCH)
    ]
    scheme = {module: {"bits": b, "group_size": -1, "sym": b == 8} for module, b in bits.items()}
    started = time.process_time()
    tuning = AutoRound(
        model, tokenizer, scheme="W2A16", group_size=-1, sym=False, layer_config=scheme, dataset=dataset,
        seqlen=longest, nsamples=sum(len(batch["input_ids"]) for batch in dataset), batch_size=BATCH, device_map="cpu",
        enable_torch_compile=False, low_cpu_mem_usage=False, low_gpu_mem_usage=False,
    )  # fmt: skip
    rounded, _ = tuning.quantize()
    write_weights(Path(sys.argv[2]), "SignRound", time.process_time() - started, rounded, bits)


if __name__ == "__main__":
    main()
