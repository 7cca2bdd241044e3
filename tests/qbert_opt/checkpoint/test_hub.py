"""Quantized folders in transformers: opened after `register`, refused without it, packed tables row by row."""

import json
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


OPENING = """
import sys
def opened():
    from transformers import AutoModelForSequenceClassification, BertForSequenceClassification
    for kind in (AutoModelForSequenceClassification, BertForSequenceClassification):
        model = kind.from_pretrained(sys.argv[1])
        layer = model.bert.encoder.layer[0].attention.self.query
        assert (model.hf_quantizer.quantization_config.format, type(layer).__name__) == FORMAT
    try:
        model.save_pretrained(sys.argv[1] + "-again")
    except ValueError:
        return
    raise AssertionError("saved")
def refused():  # rather than going on with random weights: packed codes have another shape than what they replace
    from transformers import AutoModelForSequenceClassification
    try:
        AutoModelForSequenceClassification.from_pretrained(sys.argv[1])
    except RuntimeError as error:
        assert "ignore_mismatched_sizes" in str(error).splitlines()[-1], error
        return
    raise AssertionError("opened")
FORMAT = ("qbert-opt/model@2", "PackedLinear")
"""
IN_THIS_ORDER = {
    "registered before transformers is imported": """
import qbert_opt
qbert_opt.register()
qbert_opt.register()
opened()
""",
    "registered after transformers is imported": """
refused()
import qbert_opt
refused()
qbert_opt.register()
opened()
""",
    "imported, then a folder opened": """
finders, modules = list(sys.meta_path), set(sys.modules)
import qbert_opt
assert sys.meta_path == finders
assert {name.split(".")[0] for name in set(sys.modules) - modules} == {"qbert_opt"}
refused()
from transformers.quantizers import auto
assert "qbert-opt" not in auto.AUTO_QUANTIZER_MAPPING
from qbert_opt.checkpoint.reader import open_packed
open_packed(sys.argv[1])
assert "qbert-opt" in auto.AUTO_QUANTIZER_MAPPING
opened()
""",
}
FORKED = """
import os, traceback
import torch, torch._dynamo, torch.distributed.fsdp, torch.distributed.tensor  # which transformers imports each time
def forked(code, log):
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with open(log, "wb", buffering=0) as file:
        os.dup2(file.fileno(), 2)
    try:
        exec(code, globals())
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
codes = [forked(orders[0], logs[0])]
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification
codes += [forked(*order) for order in zip(orders[1:], logs[1:])]
print(codes)
"""


@pytest.fixture(scope="module")
def opened(written, tmp_path_factory):
    """How each order ended, and what it said: each in a process forked from one that never imported qbert_opt.

    The first order imports transformers itself; the others are forked after that has been imported.
    """
    folder = tmp_path_factory.mktemp("orders")
    logs = [str(folder / str(number)) for number in range(len(IN_THIS_ORDER))]
    code = f"{OPENING}\norders, logs = {list(IN_THIS_ORDER.values())!r}, {logs!r}\n{FORKED}"
    command = [sys.executable, "-c", code, written.folder]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    codes = json.loads(done.stdout.splitlines()[-1])
    said = [Path(log).read_text() for log in logs]
    return dict(zip(IN_THIS_ORDER, zip(codes, said, strict=True), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("order", IN_THIS_ORDER)
def test_from_pretrained_opens_the_folder_once_registered(opened, order):
    """In a fresh process: refused until `register` or a function of ours opens a folder; the import changes nothing."""
    code, said = opened[order]
    assert code == 0, said
    assert ("MISMATCH" in said) == ("refused()" in IN_THIS_ORDER[order])


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
