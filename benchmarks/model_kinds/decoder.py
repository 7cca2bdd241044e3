"""Decoders: do scores order the losses of single matrices, and do plans beat uniform ones and llama.cpp's own mixes?

    python -m benchmarks.model_kinds.decoder train {llama,gpt2} MODELS [--minutes 5]
    python -m benchmarks.model_kinds.decoder scores {llama,gpt2} MODELS RESULTS.json
    python -m benchmarks.model_kinds.decoder plans {llama,gpt2} MODELS RESULTS.json
    python -m benchmarks.model_kinds.decoder mixes llama MODELS RESULTS.json --library libllama.so

`train` makes a decoder of 3.7 million weights, 4 layers x 256 columns, on the bundled training text: Llama's shape with
4 query heads on 2 key and value heads, and GPT-2's with its transposed layers. Calibration and scores read `snips/dev`;
everything is measured on `snips/test`, which neither training nor scores have seen.

`scores`: one matrix at a time is rounded, and the measured KL compared with its score (Spearman, over all choices and
among those of the same bits). `plans`: plans of `directional` with gptq against uniform plans; the table of words,
which is the output layer too, has 8 bits in both, and its loss is predicted. Then plans with a table of 4, 6 or 8 bits
where the whole model may take as many bytes. `mixes`: the file of `llama_model_quantize` for Q2_K, Q3_K_M and Q4_K_M,
its block matrices dequantized into the same model, against our plan with as many bytes; both with the table at 8 bits.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from scipy.stats import spearmanr
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from benchmarks.model_kinds.llama_mixes import (
    HEADS,
    LAYERS,
    MIXES,
    PIECES,
    TENSORS,
    TOKENS,
    WIDTH,
    quantize_file,
    unpermuted,
    write_gguf,
)
from benchmarks.records import machine
from qbert_opt.data.texts import read_texts
from qbert_opt.evaluation.evaluate import evaluate, outputs
from qbert_opt.models.layers import as_weight, matrix_of
from qbert_opt.models.loading import load_model
from qbert_opt.planning.constraints import PlanConstraints
from qbert_opt.planning.planner import allocate
from qbert_opt.planning.recipes import uniform_allocation
from qbert_opt.quantization.calibration import CalibrationPlan, MatrixQuantizer, calibration_texts
from qbert_opt.runtime.provenance import code_commit, today
from qbert_opt.scoring.sensitivity import measure_sensitivity
from qbert_opt.spec.choices import Choice
from qbert_opt.spec.grids import grid
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.tables import table_grid
from qbert_opt.workflows.quantize import plan_quantizer
from qbert_opt.workflows.verify import apply_plan

SPECIALS = ("<unk>", "<s>", "</s>")
BATCH, RATE = 64, 2e-3
DRAWN = CalibrationPlan(256, 256, 0)
CHOICES = grid((2, 3, 4, 8), ("rows:each", "columns:128", "columns:64", "columns:32"), "gptq")
SINGLE = grid((2, 3, 4), ("rows:each", "columns:64"), "gptq")
TABLES = table_grid((4, 6, 8), ("rows:each",))
BUDGETS = (2.5, 3.0, 4.0)
UNIFORM = {2.5: "2bit/columns:64/gptq", 3.0: "3bit/rows:each/gptq", 4.0: "4bit/rows:each/gptq"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("train", "scores", "plans", "mixes"))
    parser.add_argument("shape", choices=("llama", "gpt2"))
    parser.add_argument("models", type=Path)
    parser.add_argument("results", type=Path, nargs="?")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--library", type=Path)
    parser.add_argument("--texts", type=int, default=700, help="of the test set, that plans are measured on")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = options.models / options.shape
    if options.step == "train":
        train(options.shape, folder, options.minutes)
        return
    started = time.process_time()
    row = {"scores": single_matrices, "plans": plans, "mixes": mixes}[options.step](folder, options)
    row |= {
        "command": f"python -m benchmarks.model_kinds.decoder {options.step} {options.shape}",
        "commit": code_commit(), "date": today(),
        "machine": machine(), "cpu_seconds": round(time.process_time() - started),
    }  # fmt: skip
    known = json.loads(options.results.read_text()) if options.results.exists() else {}
    known[f"{options.shape} {options.step}"] = row
    options.results.write_text(json.dumps(known, indent=1) + "\n")
    print(json.dumps(row, indent=1))


def train(shape: str, folder: Path, minutes: float) -> None:
    """Train for so many minutes of processor time, the learning rate falling to 0, and save model and tokenizer."""
    texts = [text for (text,) in read_texts("snips/train").texts]
    made = tokenizer(texts)
    model = new_model(shape)
    rows = [[1, *made(text, add_special_tokens=False)["input_ids"], 2][:TOKENS] for text in texts]
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.1, betas=(0.9, 0.95))
    draw, start, losses, share = np.random.default_rng(0), time.process_time(), [], 0.0
    while share < 1:
        order = draw.permutation(len(rows))
        chunks = np.array_split(order, len(order) // BATCH)
        for chunk in chunks:
            share = (time.process_time() - start) / (60 * minutes)
            if share >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(1.0, 50 * share, 1.05 - share)
            length = max(len(rows[i]) for i in chunk)
            ids = torch.tensor([rows[i] + [2] * (length - len(rows[i])) for i in chunk])
            mask = torch.tensor([[1] * len(rows[i]) + [0] * (length - len(rows[i])) for i in chunk])
            labels = ids.masked_fill(mask == 0, -100)
            loss = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
            if len(losses) % 50 == 0:
                print(f"{len(losses)} updates, {100 * share:.0f} %, loss {np.mean(losses[-50:]):.3f}", flush=True)
    model.eval().save_pretrained(folder)
    made.save_pretrained(folder)
    loaded = load_model(folder)
    print(evaluate(loaded, read_texts("snips/test")), evaluate(loaded, read_texts("snips/dev")))


def tokenizer(texts: list[str]) -> transformers.PreTrainedTokenizerFast:
    """Return a byte-level BPE of the texts that puts `<s>` first."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=PIECES, special_tokens=list(SPECIALS), initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def new_model(shape: str) -> transformers.PreTrainedModel:
    """Return a decoder with random weights."""
    torch.manual_seed(0)
    ids = {"vocab_size": PIECES, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": True}
    if shape == "gpt2":
        config = transformers.GPT2Config(
            n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=256, resid_pdrop=0.0, embd_pdrop=0.0,
            attn_pdrop=0.0, **ids,
        )  # fmt: skip
        return transformers.GPT2LMHeadModel(config)
    config = transformers.LlamaConfig(
        hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=HEADS // 2,
        intermediate_size=3 * WIDTH, max_position_embeddings=256, **ids,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def single_matrices(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """Compare scores with the measured loss of each matrix under each choice, on other text."""
    loaded, data, unseen = load_model(folder), read_texts("snips/dev"), read_texts("snips/test").take(range(160))
    scores = measure_sensitivity(loaded, data, SINGLE, plan=DRAWN)
    fit, _ = calibration_texts(data, DRAWN)
    quantizer = MatrixQuantizer(loaded, scores.profile, "gptq", fit)
    reference = outputs(loaded, unseen)
    predicted = scores.values()
    measured = np.empty_like(predicted)
    for i, matrix in enumerate(scores.profile.matrices):
        weight = matrix_of(loaded.model.get_submodule(matrix.module)).detach()
        original = weight.clone()
        for j, quantized in enumerate(quantizer.quantize(matrix, SINGLE)):
            weight.copy_(quantized.dequantize())
            measured[i, j] = evaluate(loaded, unseen, reference).kl.value
        weight.copy_(original)
    bits = np.array([c.bits for c in SINGLE])
    within = {str(b): spearmanr(predicted[:, bits == b].ravel(), measured[:, bits == b].ravel())[0] for b in (2, 3, 4)}
    ratio = measured / predicted
    return {
        "matrices": len(scores.profile.matrices), "choices": [c.name for c in SINGLE], "scored_texts": DRAWN.num_scored,
        "measured_texts": len(unseen), "spearman": round(spearmanr(predicted.ravel(), measured.ravel())[0], 4),
        "spearman_by_bits": {b: round(value, 4) for b, value in within.items()},
        "measured_over_predicted": [round(x, 3) for x in np.quantile(ratio, (0.25, 0.5, 0.75))],
        "median_std_error": round(float(np.median(scores.std_errors() / predicted)), 3),
    }  # fmt: skip


def plans(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """Measure plans and uniform plans of at least the same bytes."""
    loaded, data, unseen = load_model(folder), read_texts("snips/dev"), read_texts("snips/test")
    unseen = unseen.take(range(options.texts))
    scores = measure_sensitivity(loaded, data, CHOICES, plan=DRAWN, table_choices=TABLES)
    tables, fixed = table_at_8_bits(scores)
    reference = outputs(loaded, unseen)
    rows = {"float32": {"perplexity": interval(evaluate(loaded, unseen).perplexity)}}
    for budget in BUDGETS:
        uniform = uniform_allocation(scores, next(c for c in CHOICES if c.name == UNIFORM[budget]), tables=tables)
        found = allocate(scores, Limits(encoder_bytes=uniform.encoder_bytes), constraints=fixed)
        whole = allocate(scores, Limits(total_bytes=uniform.total_bytes))
        for name, plan in (
            (f"{budget} plan", found), (f"{budget} plan, table chosen", whole),
            (f"{budget} uniform {UNIFORM[budget]}", uniform),
        ):  # fmt: skip
            rows[name] = measured_row(loaded, plan, data, unseen, reference)
    return {"texts": len(unseen), "rows": rows}


def table_at_8_bits(scores) -> tuple[dict[str, Choice], PlanConstraints]:
    """The scored choice of 8 bits for every table, and the constraint that a plan takes it."""
    return {table.module: TABLES[-1] for table in scores.profile.tables}, PlanConstraints(table_bits=(8,))


def measured_row(loaded, plan, data, unseen, reference) -> dict[str, object]:
    """Measure one plan."""
    found = evaluate(apply_plan(loaded, plan, plan_quantizer(loaded, plan, data)), unseen, reference)
    return {
        "encoder_bytes": plan.encoder_bytes, "total_bytes": plan.total_bytes,
        "table_bits": [table.choice.bits for table in plan.tables],
        "predicted_loss": float(f"{plan.predicted_loss:.4g}"),
        "measured_over_predicted": round(found.kl.value / plan.predicted_loss, 3),
        "kl": interval(found.kl), "perplexity": interval(found.perplexity), "agreement": interval(found.agreement),
    }  # fmt: skip


def interval(found) -> list[float]:
    return [float(f"{x:.4g}") for x in (found.value, found.low, found.high)]


def mixes(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """Measure llama.cpp's own mixes, and our plans with at most as many bytes for the same matrices."""
    import gguf

    loaded, data, unseen = load_model(folder), read_texts("snips/dev"), read_texts("snips/test")
    unseen = unseen.take(range(options.texts))
    scores = measure_sensitivity(loaded, data, CHOICES, plan=DRAWN, table_choices=TABLES)
    tables, fixed = table_at_8_bits(scores)
    reference = outputs(loaded, unseen)
    rows: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "float.gguf"
        write_gguf(loaded.model, source)
        for name, number in MIXES.items():
            target = Path(scratch) / f"{name}.gguf"
            quantize_file(options.library, source, target, number)
            tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(target).tensors}
            base = uniform_allocation(scores, CHOICES[-1], tables=tables)  # the rest of the model as in our plans
            mixed = apply_plan(loaded, base, plan_quantizer(loaded, base, data))
            size, types = 0, {}
            for block in range(LAYERS):
                for tensor_name, module in TENSORS.items():
                    tensor = tensors[f"blk.{block}.{tensor_name}.weight"]
                    values = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
                    if tensor_name in ("attn_q", "attn_k"):
                        values = unpermuted(values, HEADS if tensor_name == "attn_q" else HEADS // 2)
                    layer = mixed.model.get_submodule(f"model.layers.{block}.{module}")
                    matrix_of(layer).detach().copy_(as_weight(layer, values))
                    size += tensor.n_bytes
                    types.setdefault(tensor.tensor_type.name, []).append(f"{block}.{tensor_name}")
            found = evaluate(mixed, unseen, reference)
            rows[name] = {
                "encoder_bytes": int(size), "types": {kind: len(used) for kind, used in types.items()},
                "kl": interval(found.kl), "perplexity": interval(found.perplexity),
                "agreement": interval(found.agreement),
            }  # fmt: skip
            ours = allocate(scores, Limits(encoder_bytes=int(size)), constraints=fixed)
            rows[f"{name}, our plan"] = measured_row(loaded, ours, data, unseen, reference)
    return {"texts": len(unseen), "library": options.library.name, "rows": rows}


if __name__ == "__main__":
    main()
