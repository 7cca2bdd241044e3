"""A small Llama as llama.cpp's file, and its own mixed quantizations of it: for `decoder.py` and `decoder_files.py`."""

import ctypes
from pathlib import Path

import numpy as np
import torch

PIECES, WIDTH, LAYERS, HEADS, TOKENS = 2048, 256, 4, 4, 64
MIXES = {"Q2_K": 10, "Q3_K_M": 12, "Q4_K_M": 15}  # llama_ftype
TENSORS = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip


def write_gguf(model, path: Path) -> None:
    """Write a Llama in float32 as llama.cpp's own converter would, but without a vocabulary, which is not needed."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS // 2)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(PIECES)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    state = {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}
    writer.add_tensor("token_embd.weight", state["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", state["model.norm.weight"])
    for block in range(LAYERS):
        prefix = f"model.layers.{block}"
        writer.add_tensor(f"blk.{block}.attn_norm.weight", state[f"{prefix}.input_layernorm.weight"])
        writer.add_tensor(f"blk.{block}.ffn_norm.weight", state[f"{prefix}.post_attention_layernorm.weight"])
        for name, module in TENSORS.items():
            values = state[f"{prefix}.{module}.weight"]
            if name in ("attn_q", "attn_k"):
                values = permuted(values, HEADS if name == "attn_q" else HEADS // 2)
            writer.add_tensor(f"blk.{block}.{name}.weight", np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def permuted(values: np.ndarray, heads: int) -> np.ndarray:
    """Order the rows of queries or keys as llama.cpp rotates them: pairs of neighbours in place of two halves."""
    rows, columns = values.shape
    return values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def unpermuted(values: torch.Tensor, heads: int) -> torch.Tensor:
    rows, columns = values.shape
    return values.reshape(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def quantize_file(library: Path, source: Path, target: Path, kind: int) -> None:
    """Run llama.cpp's `llama_model_quantize` with its default settings and one of its mixes."""
    loaded = ctypes.CDLL(str(library))

    class Parameters(ctypes.Structure):  # the first fields of llama_model_quantize_params; the rest keep their defaults
        _fields_ = (("nthread", ctypes.c_int32), ("ftype", ctypes.c_int32), ("rest", ctypes.c_byte * 248))

    loaded.llama_model_quantize_default_params.restype = Parameters
    parameters = loaded.llama_model_quantize_default_params()
    parameters.nthread, parameters.ftype = 1, kind
    loaded.llama_model_quantize.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(Parameters))
    loaded.llama_model_quantize.restype = ctypes.c_uint32
    if loaded.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters)):
        raise SystemExit(f"{target.name}: llama.cpp refused")
