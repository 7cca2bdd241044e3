"""Quantized folders in transformers: opened after `register`, refused without it, packed tables row by row."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qbert_opt.checkpoint.packed_modules import PackedEmbedding
from qbert_opt.checkpoint.reader import load_quantized, open_packed
from qbert_opt.checkpoint.stored_tensors import stored_parts
from qbert_opt.evaluation.evaluate import outputs
from qbert_opt.quantization.methods import rtn
from qbert_opt.spec.choices import choice

ROOT = Path(__file__).parents[3]


def test_transformers_opens_the_folder(written, sentences):
    """`from_pretrained` answers as `load_quantized` does, holds packed codes, and can be made a float model."""
    plain, _ = load_quantized(written.folder)
    packed = open_packed(written.folder)
    truth = outputs(plain, sentences)
    torch.testing.assert_close(outputs(packed, sentences), truth, atol=1e-5, rtol=0)
    held = sum(t.numel() * t.element_size() for t in packed.model.state_dict().values())
    assert held < sum(t.numel() * t.element_size() for t in plain.model.state_dict().values()) / 2
    assert packed.model.is_quantized
    packed.model.dequantize()
    torch.testing.assert_close(outputs(packed, sentences), truth, atol=1e-5, rtol=0)
    for name, parameter in plain.model.named_parameters():
        assert torch.equal(packed.model.get_parameter(name), parameter), name


FROM_PRETRAINED = """
import sys
{before}
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification
for kind in (AutoModelForSequenceClassification, BertForSequenceClassification):
    model = kind.from_pretrained(sys.argv[1])
    layer = model.bert.encoder.layer[0].attention.self.query
    print(model.hf_quantizer.quantization_config.format, type(layer).__name__)
try:
    model.save_pretrained(sys.argv[1] + "-again")
except ValueError as error:
    print("not serializable")
"""
REGISTERED = {
    "register": "import qbert_opt; qbert_opt.register(); qbert_opt.register()",
    "transformers first": "import transformers.quantizers.auto, qbert_opt; qbert_opt.register()",
    "opened before": "from qbert_opt.checkpoint.reader import open_packed; open_packed(sys.argv[1])",
}


def fresh(code, *arguments):
    """Run code in a process of its own."""
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize("way", REGISTERED)
def test_from_pretrained_opens_the_folder_once_registered(written, way):
    """In a fresh process; by `register`, called once or more, or by whatever of ours opens a folder."""
    done = fresh(FROM_PRETRAINED.format(before=REGISTERED[way]), written.folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["qbert-opt/model@2 PackedLinear"] * 2 + ["not serializable"]


@pytest.mark.parametrize("before", ["", "import qbert_opt"])
def test_from_pretrained_stops_where_nobody_registered(written, before):
    """Rather than going on with random weights: packed codes have another shape than the weights they replace."""
    done = fresh(FROM_PRETRAINED.format(before=before), written.folder)
    assert done.returncode == 1 and done.stdout == ""
    assert "MISMATCH" in done.stderr and "ignore_mismatched_sizes" in done.stderr.splitlines()[-1]


def test_importing_qbert_opt_changes_nothing(written):
    """No finder, no transformers, no torch: what is imported is the package's own."""
    code = """
import sys
finders, modules = list(sys.meta_path), set(sys.modules)
import qbert_opt
assert sys.meta_path == finders
assert {"torch", "transformers"}.isdisjoint(set(sys.modules) - modules)
import transformers.quantizers.auto as auto
assert "qbert-opt" not in auto.AUTO_QUANTIZER_MAPPING
qbert_opt.register()
assert "qbert-opt" in auto.AUTO_QUANTIZER_MAPPING
"""
    done = fresh(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("which", ["8bit/rows:each/rtn", "4bit/columns:16/rtn", "3bit/rows:16/rtn/symmetric",
                                   "3bit/columns:8/rtn", "4bit/rows:each/rtn/zero-point"])  # fmt: skip
def test_rows_of_packed_tables(which):
    """Only the rows that are read are unpacked, and they are those of the whole table."""
    weight = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    layout = choice(which).layout(64, 16, heads=1)
    [quantized] = rtn.quantize(weight, [layout])
    table = PackedEmbedding(layout, torch.nn.Embedding(64, 16))
    table.load_state_dict({table.names[part]: tensor for part, tensor in stored_parts(quantized).items()})
    ids = torch.tensor([[3, 3, 63], [0, 17, 41]])
    assert torch.equal(table(ids), quantized.dequantize()[ids])
    assert torch.equal(table.weight, table.plain().weight)
