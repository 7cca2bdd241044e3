"""Names of a decoder's matrices in llama.cpp's files, there and back."""

from decoders import tiny_decoder, tokenizer

from qbert_opt.configs.tools import llama_cpp
from qbert_opt.models.loading import LoadedModel
from qbert_opt.models.structure import profile_model
from qbert_opt.planning.possible import unscored
from qbert_opt.planning.recipes import uniform_allocation
from qbert_opt.spec.grids import grid
from qbert_opt.workflows.export_config import export_plan


def test_gates_and_fused_projections_have_their_own_names():
    """Llama's gate is `ffn_gate` beside `ffn_up`, GPT-2's projection `attn_qkv`; what is written is read back."""
    expected = {
        "llama": ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"),
        "gpt2": ("attn_qkv", "attn_output", "ffn_up", "ffn_down"),
    }
    for family, names in expected.items():
        made = tokenizer()
        made.model_max_length, made.pad_token = 40, "</s>"
        shape = {"intermediate_size": 64} if family == "llama" else {}
        profile = profile_model(LoadedModel(family, tiny_decoder(family, **shape), made, "hash"))
        [four] = grid((4,), ("columns:32",), "rtn")
        plan = uniform_allocation(unscored(profile, [four]), four)
        text = export_plan(plan, llama_cpp, ".txt").text
        written = [line.partition("=")[0].replace("\\", "") for line in text.split()]
        assert written == [f"blk.{block}.{name}.weight" for block in range(2) for name in names]
        assert list(llama_cpp.read(text, profile, ".txt")) == [m.module for m in profile.matrices]
