"""What each tool's own loader makes of a config of ours: for `exchange_tools.py`, in a Python that has the tool.

Each check quantizes a small random BERT by the config and returns bits and number of groups of every matrix.
"""

from __future__ import annotations

import json

import numpy as np

HIDDEN, WIDE, LAYERS, HEADS = 256, 512, 2, 4
PARTS = {
    "query": ("attention.self.query", HIDDEN, HIDDEN),
    "key": ("attention.self.key", HIDDEN, HIDDEN),
    "value": ("attention.self.value", HIDDEN, HIDDEN),
    "attention_output": ("attention.output.dense", HIDDEN, HIDDEN),
    "intermediate": ("intermediate.dense", WIDE, HIDDEN),
    "output": ("output.dense", HIDDEN, WIDE),
}


def small_bert():
    """The torch model of that plan, with random weights, and a batch of token ids."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=64, hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=WIDE,
        max_position_embeddings=40, num_labels=3,
    )  # fmt: skip
    return BertForSequenceClassification(config).eval(), torch.randint(0, 64, (4, 12))


def letters(folder):
    """A tokenizer of single letters."""
    from transformers import BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(chr, range(97, 123))]
    (folder / "vocab.txt").write_text("\n".join(words))
    return BertTokenizerFast(vocab_file=str(folder / "vocab.txt"))


def check_modelopt(text, offers, folder):
    """Quantize; read bits and the shape of the ranges off each weight quantizer."""
    import modelopt.torch.quantization as mtq
    import yaml

    model, ids = small_bert()
    model = mtq.quantize(model, yaml.safe_load(text), lambda m: m(ids))
    return {
        m: (model.get_submodule(m).weight_quantizer.num_bits, model.get_submodule(m).weight_quantizer.amax.numel())
        for m in offers
    }


def check_autoround(text, offers, folder):
    """Quantize with no tuning steps; read bits and scales off each layer."""
    import torch
    from auto_round import AutoRound

    (folder / "texts.json").write_text(json.dumps([{"text": "a b c d e f g h " * 40}] * 8))
    model, _ = small_bert()
    config = json.loads(text)
    rounder = AutoRound(
        model, letters(folder), scheme="W4A16", layer_config=config, iters=0, nsamples=4, seqlen=16, batch_size=1,
        dataset=str(folder / "texts.json"), disable_opt_rtn=True, device_map="cpu", low_gpu_mem_usage=False,
    )  # fmt: skip
    model, found = rounder.quantize()
    torch.manual_seed(0)
    return {m: (found[m]["bits"], model.get_submodule(m).scale.numel()) for m in offers}


def check_torchao(text, offers, folder):
    """Quantize; read the dtype and the scales off each weight."""
    from torchao.core.config import config_from_dict
    from torchao.quantization import quantize_

    model, ids = small_bert()
    quantize_(model, config_from_dict(json.loads(text)), filter_fn=None)
    model(ids)
    weights = {m: model.get_submodule(m).weight for m in offers}
    return {m: (int(str(w.target_dtype).removeprefix("torch.int")), w.scale.numel()) for m, w in weights.items()}


def check_gptqmodel(text, offers, folder):
    """Load the config; ask it for each module as its looper does. It has no definition of BERT, so it stops here."""
    from gptqmodel.quantization import QuantizeConfig

    config = QuantizeConfig.from_quant_config(json.loads(text))
    found = {}
    for module in offers:
        bits, size = (config.dynamic_get(module, key, getattr(config, key)) for key in ("bits", "group_size"))
        rows, columns = shape(module)
        found[module] = (int(bits), rows if size == -1 else rows * columns // size)
    return found


def check_compressed_tensors(text, offers, folder):
    """Apply; read bits and the shape of the scales off each layer."""
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config

    model, _ = small_bert()
    apply_quantization_config(model, QuantizationConfig.model_validate(json.loads(text)))
    layers = {m: model.get_submodule(m) for m in offers}
    return {m: (s.quantization_scheme.weights.num_bits, s.weight_scale.numel()) for m, s in layers.items()}


def check_llm_compressor(text, offers, folder):
    """Run the recipe without data; read bits and scales off each layer."""
    from llmcompressor import oneshot
    from transformers import AutoModelForSequenceClassification

    (folder / "recipe.yaml").write_text(text)
    small_bert()[0].save_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)  # it wants to know where a model is from
    oneshot(model=model, processor=letters(folder), recipe=str(folder / "recipe.yaml"))
    layers = {m: model.get_submodule(m) for m in offers}
    return {m: (s.quantization_scheme.weights.num_bits, s.weight_scale.numel()) for m, s in layers.items()}


def check_nncf(text, offers, folder):
    """Make the calls on the OpenVINO model; read the type and the scales of each constant."""
    import nncf
    import openvino
    import torch

    model, ids = small_bert()
    example = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    converted = openvino.convert_model(model, example_input=example)
    for call in json.loads(text)["compress_weights"]:
        options = {k: call[k] for k in ("group_size", "ratio", "all_layers") if k in call}
        if "backup_mode" in call:
            options["backup_mode"] = nncf.BackupMode(call["backup_mode"])
        converted = nncf.compress_weights(
            converted,
            mode=nncf.CompressWeightsMode(call["mode"]),
            ignored_scope=nncf.IgnoredScope(**call["ignored_scope"]),
            **options,
        )
    constants = {op.get_friendly_name(): op for op in converted.get_ops() if op.get_type_name() == "Constant"}
    found = {}
    for module in offers:
        [name] = [n for n in constants if n.endswith(f"{module}.weight")]
        scale = constants[f"{name}/scale"]
        kind = constants[name].get_element_type().get_type_name()
        found[module] = (int(kind.lstrip("ui")), int(np.prod(list(scale.get_output_shape(0)))))
    return found


def check_coremltools(text, offers, folder):
    """Palettize the torch model; count the distinct values of each range of rows."""
    from coremltools.optimize.torch.palettization import PostTrainingPalettizer, PostTrainingPalettizerConfig

    (folder / "palettes.yaml").write_text(text)
    model, _ = small_bert()
    config = PostTrainingPalettizerConfig.from_yaml(str(folder / "palettes.yaml"))
    model = PostTrainingPalettizer(model, config).compress()
    found = {}
    for module in offers:
        layer = model.get_submodule(module)
        lut = getattr(layer, "_COREML_/weight/lut")
        found[module] = (int(np.log2(lut.shape[-2])), int(np.prod(lut.shape[:-2])))
    return found


def check_llama_cpp(text, offers, folder):
    """No quantizer runs here: types, block sizes and tensor names are checked against llama.cpp's own tables."""
    import re

    import gguf

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, LAYERS)
    found = {}
    for module in offers:
        tensor = names.get_name(module.removeprefix("bert.")) + ".weight"
        [kind] = {line.partition("=")[2] for line in text.split() if re.search(line.partition("=")[0], tensor)}
        size, size_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind.upper()]]
        offer = offers[module]
        group = int(offer.grouping.partition(":")[2])
        assert size_bytes * 8 == size * offer.bits + size // group * offer.group_bits, kind
        rows, columns = shape(module)
        found[module] = (offer.bits, rows * columns // group)
    return found


def check_ai_edge_quantizer(text, offers, folder):
    """Quantize our own float32 file; read the type and the number of scales off each weight."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils
    from ai_edge_quantizer import quantizer

    from qbert_opt.workflows.export import export_float

    (folder / "recipe.json").write_text(text)
    model, _ = small_bert()
    model.save_pretrained(folder / "model")
    letters(folder / "model").save_pretrained(folder / "model")
    source = export_float(folder / "model", "litert", folder / "float32") / "model.tflite"
    made = quantizer.Quantizer(str(source), str(folder / "recipe.json")).quantize()
    made.export_model(str(folder / "out.tflite"))
    tensors = flatbuffer_utils.read_model(str(folder / "out.tflite")).subgraphs[0].tensors
    kinds = {number: name for name, number in vars(schema.TensorType).items() if name.startswith("INT")}
    found = {}
    for tensor in tensors:
        module, _, rest = tensor.name.decode().rpartition(".")
        if rest == "weight" and module in offers:
            ranges = tensor.quantization
            blocks = getattr(ranges.details, "scales", None)
            count = len(ranges.scale) if blocks is None else int(np.prod(tensors[blocks].shape))
            found[module] = (int(kinds[tensor.type].removeprefix("INT")), count)
    return found


def shape(module: str) -> tuple[int, int]:
    """Rows and columns of a matrix of the small model."""
    return next((rows, columns) for name, rows, columns in PARTS.values() if module.endswith(f"{'.'}{name}"))
