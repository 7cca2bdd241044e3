"""Fit the graph's part of `FileLaw` to written files, and compare predicted with written bytes of whole models.

    python -m benchmarks.devices.engine_files fit benchmarks/devices/engine_files_results.json
    python -m benchmarks.devices.engine_files check benchmarks/devices/engine_files_results.json MODEL...
        [--engines litert]

`fit` writes BERTs of two and four layers, 64 wide, in every kind of product that an engine holds, and prints the
coefficients that `engines/backends/*.py` state. `check` writes models in several plans, of which an engine takes the
choices that it holds. No file is run: bytes depend on no speed.
"""

import argparse
import itertools
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from qbert_opt.costs.engine_target import engine_target
from qbert_opt.costs.stored import table_choices
from qbert_opt.engines.file_law import GraphLaw, product_kind
from qbert_opt.engines.session import exporting_format, rules_of
from qbert_opt.formats.traced_model import traceable
from qbert_opt.models.loading import load_model
from qbert_opt.models.structure import profile_model
from qbert_opt.planning.recipes import given_allocation
from qbert_opt.runtime.files import folder_bytes
from qbert_opt.spec.choices import choice
from qbert_opt.spec.planned import PlannedActivation
from qbert_opt.workflows.rerank import MatrixQuantizer, apply_plan, quantized_matrices

ENGINES = ("onnxruntime", "openvino", "litert")
PLAIN = "4bit/rows:each/rtn/symmetric"
KINDS = (
    PLAIN, "4bit/rows:each/rtn", "4bit/rows:4/rtn/zero-point", "4bit/columns:32/rtn/symmetric", "4bit/columns:32/rtn",
    "4bit/columns:32/rtn/zero-point",
)  # fmt: skip
STATIC = (PLAIN, "4bit/rows:each/rtn", "4bit/rows:4/rtn/zero-point")
PLANS = {
    "8 bits per row, symmetric": (("8bit/rows:each/rtn/symmetric",), False),
    "8 bits per row": (("8bit/rows:each/rtn",), False),
    "3 bits in columns of 32": (("3bit/columns:32/rtn",), False),
    "mixed": (
        ("2bit/columns:64/rtn", "4bit/rows:1/rtn", "3bit/columns:32/rtn/symmetric", "8bit/rows:each/rtn",
         "4bit/columns:128/rtn/zero-point", "2bit/rows:each/rtn", "4bit/columns:32/rtn"), False),
    "mixed without offsets": (
        ("4bit/columns:64/rtn/symmetric", "8bit/rows:each/rtn/symmetric", "2bit/rows:each/rtn/signed",
         "4bit/rows:1/rtn/symmetric", "3bit/columns:32/rtn/signed"), False),
    "mixed per row, static inputs": (
        ("4bit/rows:each/rtn", "8bit/rows:each/rtn/symmetric", "3bit/rows:1/rtn", "8bit/rows:4/rtn"), True),
}  # fmt: skip


def random_bert(folder, layers, hidden=64):
    """A BERT whose tensors are all different: equal ones would be stored once."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(60))]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=200,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=4,
            intermediate_size=2 * hidden,
            max_position_embeddings=64,
            num_labels=3,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter).mul_(0.3).half().float())
    model.save_pretrained(folder)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return folder


def written(folder, names, engine, static=False):
    """Write a model in an engine's format; return its plan, planned inputs by module, and bytes of the files."""
    loaded = load_model(folder)
    profile = profile_model(loaded)
    choices = itertools.cycle(names)
    chosen = {m.module: choice(next(choices)) for m in profile.matrices}
    plan = given_allocation(profile, chosen | table_choices(profile, engine_target(engine)))
    quantizer = MatrixQuantizer(loaded, profile, "rtn", None)
    traced = traceable(apply_plan(loaded, plan, quantizer))
    stored = list(quantized_matrices(quantizer, plan))
    inputs, low = {}, -1.0
    for m in profile.matrices if static else ():
        low -= 0.0 if m.kind in ("key", "value") else 0.01  # query, key and value read the same tensor
        inputs[m.module] = PlannedActivation(
            modules=(m.module,), bits=8, scheme="tensor", range="mse", low=low, high=2.5, predicted_loss=0, std_error=0
        )
    with tempfile.TemporaryDirectory() as out:
        exporting_format(engine).write(traced, stored, Path(out), "planned" if static else "int8", inputs)
        return plan, inputs, folder_bytes(Path(out))


def weight_bytes(plan, inputs, engine):
    """Bytes of the tensors in the file."""
    law, profile = rules_of(engine).file, plan.profile
    matrices = sum(
        law.matrix(m.choice, m.rows, m.columns, heads=profile.heads, static_input=m.module in inputs).bytes
        for m in plan.matrices
    )
    tables = sum(law.table(t.choice, t.rows, t.columns).bytes for t in plan.tables)
    bare = replace(law, graph=GraphLaw(wide_vectors=law.graph.wide_vectors))
    return matrices + tables + bare.other_bytes(profile)


def held(engine, names, static):
    """Those of some choices that an engine holds; none under static inputs where it has none."""
    rules = rules_of(engine)
    return [n for n in names if rules.refusal(choice(n)) is None and (rules.static_bits or not static)]


def fit(engines):
    """Coefficients of `GraphLaw` by engine."""
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        small, large = (random_bert(f"{scratch}/{layers}", layers) for layers in (2, 4))
        for engine in engines:
            layers, model = {}, 0
            kinds = [
                (n, static) for names, static in ((KINDS, False), (STATIC, True)) for n in held(engine, names, static)
            ]
            for name, static in kinds:
                over = []
                for folder in (small, large):
                    plan, inputs, size = written(folder, [name], engine, static)
                    over.append(size - weight_bytes(plan, inputs, engine))
                kind = product_kind(choice(name), static_input=static)
                layers[kind] = (over[1] - over[0]) / 2
                if name == PLAIN and not static:
                    model = over[0] - 2 * layers[kind]
            per_layer = layers["rows"]
            more = {kind: round((size - per_layer) / 6) for kind, size in layers.items() if kind != "rows"}
            found[engine] = {"model": round(model), "layer": round(per_layer), "more": more}
    return found


def check(folders, engines):
    """Predicted and written bytes of whole models."""
    rows = []
    for folder, engine, (name, (names, static)) in itertools.product(folders, engines, PLANS.items()):
        names = held(engine, names, static)
        if not names:
            continue
        plan, inputs, size = written(folder, names, engine, static)
        law = rules_of(engine).file
        nodes = sum(law.node_bytes(m.choice, static_input=m.module in inputs) for m in plan.matrices)
        graph = law.graph.model + law.graph.layer * plan.profile.num_layers + nodes
        predicted = weight_bytes(plan, inputs, engine) + graph
        rows.append(
            {"model": Path(folder).name, "engine": engine, "plan": name, "packed": plan.total_bytes,
             "predicted": predicted, "written": size, "percent": round(100 * (predicted / size - 1), 3)}
        )  # fmt: skip
        print(rows[-1], file=sys.stderr)
    return rows


def main():
    """Fit or check, and merge the answer into the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("fit", "check"))
    parser.add_argument("path", type=Path)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    given = parser.parse_args()
    results = json.loads(given.path.read_text()) if given.path.exists() else {}
    results["command"] = f"python -m benchmarks.devices.engine_files fit|check {given.path} MODEL..."
    if given.what == "fit":
        results["graph"] = results.get("graph", {}) | fit(given.engines)
        print(json.dumps(results["graph"], indent=1))
    else:
        kept = [row for row in results.get("models", ()) if row["engine"] not in given.engines]
        results["models"] = kept + check(given.models, given.engines)
    given.path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
