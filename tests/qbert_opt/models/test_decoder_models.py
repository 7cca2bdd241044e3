"""Decoders of every family: roles and heads by structure, texts as next tokens, files there and back, refusals."""

import math

import pytest
import torch
import transformers
from decoders import FAMILIES, PIECES, save, sentences, tiny_decoder, tokenizer
from transformers.pytorch_utils import Conv1D

from qbert_opt.checkpoint.reader import load_quantized, open_packed
from qbert_opt.costs.pricing import option_tables
from qbert_opt.costs.workload import Workload
from qbert_opt.errors import InputFileError, UsageError
from qbert_opt.evaluation.evaluate import evaluate, evaluation_batches, outputs
from qbert_opt.models.batches import single_samples, tokenize
from qbert_opt.models.heads import KINDS
from qbert_opt.models.heads.protocol import TextReader
from qbert_opt.models.loading import LoadedModel, cut_at, load_model
from qbert_opt.models.outputs import collect, head_of
from qbert_opt.models.probe import check_causal
from qbert_opt.models.structure import profile_model
from qbert_opt.models.targets import read_targets
from qbert_opt.planning.planner import allocate
from qbert_opt.planning.possible import unscored
from qbert_opt.quantization.calibration import CalibrationPlan
from qbert_opt.scoring.sensitivity import measure_sensitivity
from qbert_opt.spec.choices import choice
from qbert_opt.spec.grids import grid
from qbert_opt.spec.limits import Limits
from qbert_opt.workflows.export import check_convertible
from qbert_opt.workflows.quantize import plan_quantizer, quantize_model
from qbert_opt.workflows.trim_vocabulary import trim_vocabulary
from qbert_opt.workflows.verify import apply_plan

GATED = ["query", "key", "value", "attention_output", "intermediate", "intermediate", "output"]
FUSED = ["query_key_value", "attention_output", "intermediate", "output"]
SHARED = {"gpt2": None, "gemma": 1}


@pytest.fixture
def llama(tmp_path):
    return load_model(save(tmp_path / "llama", "llama"))


def directly(family, **changes):
    """A decoder that was never in a file."""
    made = tokenizer()
    made.model_max_length, made.pad_token, made.padding_side = 40, "</s>", "right"
    return LoadedModel(family, tiny_decoder(family, **changes), made, "hash")


@pytest.mark.parametrize("family", FAMILIES)
def test_roles_heads_and_parameters(family):
    """Roles by data flow in every block, heads of keys and values, every parameter once, a tied table once."""
    loaded = directly(family)
    profile = profile_model(loaded)
    for block in range(2):
        kinds = [m.kind for m in profile.matrices if m.block == block]
        assert kinds == (FUSED if family == "gpt2" else GATED)
    assert (profile.heads, profile.key_value_heads, profile.causal) == (4, SHARED.get(family, 2), True)
    named = [loaded.model.get_parameter(f"{part.module}.weight") for part in (*profile.matrices, *profile.tables)]
    rest = {id(p): p.numel() for p in loaded.model.parameters()}
    for part, weight in zip((*profile.matrices, *profile.tables), named, strict=True):
        assert rest.pop(id(weight)) == part.rows * part.columns
    assert sum(rest.values()) == profile.other_elements
    tied = loaded.model.config.tie_word_embeddings
    assert [spec.tied_to != "" for spec in profile.head] == [tied]
    assert all(m.transposed == (family == "gpt2") for m in profile.matrices)
    sliding = family in ("mistral", "gemma2", "gemma3")
    seen = {"gemma2": (24, 0)}.get(family, (24, 24) if sliding else ())
    assert (profile.windows, profile.position_limit, profile.max_context) == (seen, 24 if sliding else 40, 40)


@pytest.mark.parametrize("family", ["llama with tied tables", "qwen3", "gpt2", "gemma"])
def test_plan_folder_and_back(family, tmp_path):
    """What is read back answers as the float model with the plan's weights, packed or not, and writes the same text."""
    loaded, data = load_model(save(tmp_path / "model", family)), sentences(12)
    choices = grid((2, 4), ("rows:heads",), "rtn")
    scores = measure_sensitivity(loaded, data, choices, metric="weight-error", plan=CalibrationPlan(2, 4, 0))
    plan = allocate(scores, Limits(encoder_bytes=round(0.45 * scores.profile.encoder_elements)))
    assert {m.bits for m in plan.matrices} == {2, 4}
    quantize_model(loaded, plan, data, tmp_path / "quantized")
    settings = "generation_config.json"
    assert (tmp_path / "quantized" / settings).read_bytes() == (tmp_path / "model" / settings).read_bytes()
    opened, _ = load_quantized(tmp_path / "quantized")
    packed = open_packed(tmp_path / "quantized")
    batches = evaluation_batches(loaded, data)
    found = [
        collect(one.head, one.model, batches).values
        for one in (apply_plan(loaded, plan, plan_quantizer(loaded, plan, data)), opened, packed)
    ]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    asked = torch.tensor([[1, 22, 7]])
    written = [one.model.generate(asked, max_new_tokens=3, do_sample=False).tolist() for one in (opened, packed)]
    assert written[0] == written[1] and len(written[0][0]) > 3
    plain = packed.model.dequantize()
    for model in (opened.model, plain):
        table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        assert (table is head) == loaded.model.config.tie_word_embeddings
    assert [type(m) for m in plain.modules()] == [type(m) for m in loaded.model.modules()]
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), opened.model.parameters(), strict=True))


def test_groups_of_heads_are_those_of_keys_and_values(llama, tmp_path):
    """4 query heads on 2 of keys: 32 rows in 4 groups, 16 rows in 2; bytes by hand, in the plan and in the file."""
    data = sentences(12)
    [one] = grid((4,), ("rows:heads",), "rtn")
    scores = measure_sensitivity(llama, data, [one], metric="weight-error", plan=CalibrationPlan(2, 4, 0))
    plan = allocate(scores, Limits(encoder_bytes=10**6))
    found = {m.kind: (m.rows, m.columns, m.num_groups, m.bytes) for m in plan.matrices if m.block == 0}
    assert found["query"] == (32, 32, 4, 32 * 32 // 2 + 4 * 4)
    assert found["key"] == found["value"] == (16, 32, 2, 16 * 32 // 2 + 2 * 4)
    assert found["output"] == (32, 48, 4, 32 * 48 // 2 + 4 * 4)
    quantize_model(llama, plan, data, tmp_path / "quantized")
    packed = open_packed(tmp_path / "quantized").model.get_submodule("model.layers.0.self_attn.k_proj")
    assert tuple(packed.scale.shape) == (2,)
    assert len(packed.weight[:8].unique()) <= 16 < len(packed.weight.unique())


def test_masks_and_prices_use_heads_of_keys_and_values():
    """6 heads do not divide 32 rows of queries, 2 divide 16 of keys; the program prices groups as the file has them."""
    profile = profile_model(directly("llama"))
    choices = grid((4,), ("rows:heads", "rows:1"), "rtn")
    odd = profile.model_copy(update={"heads": 6, "key_value_heads": 2})
    legal = {m.kind: row[0] is not None for m, row in zip(odd.matrices, unscored(odd, choices).value, strict=True)}
    assert {kind for kind, is_legal in legal.items() if is_legal} == {"key", "value", "intermediate"}
    shared = profile.model_copy(update={"heads": 8, "key_value_heads": 4})
    usage = option_tables(shared, choices, torch.ones(14, 2, dtype=torch.bool).numpy(), None, Workload(8)).usage
    expected = [
        choices[0].bytes(m.rows, m.columns, heads=4 if m.kind in ("key", "value") else 8) for m in shared.matrices
    ]
    assert usage["encoder_bytes"][:, 0].tolist() == expected
    fused = shared.matrices[0].model_copy(update={"kind": "query_key_value"})
    assert shared.heads_of(fused) == 8 + 4 + 4
    assert profile.model_copy(update={"key_value_heads": None}).heads_of(fused) == profile.heads == 4


@pytest.mark.parametrize("first", [True, False])
def test_every_token_is_predicted_once(first):
    """Windows share one token; a special first token is in each, and predicts the first token of the text only."""
    made, spec = tokenizer(first), KINDS["next_tokens"]
    text = " ".join("abcd" for _ in range(14))
    whole = made(text)["input_ids"]
    for longest in (4, 5, 11, len(whole), 100):
        samples = spec.samples(TextReader("", made, longest), (text,), 0)
        assert all(len(one.encoded["input_ids"]) <= longest and not one.lost for one in samples)
        assert (len(samples) > 1) == (longest < len(whole))
        predicted = [one.encoded["input_ids"][t + 1] for one in samples for t, on in enumerate(one.positions) if on]
        assert predicted == whole[1:]
        assert all(one.encoded["input_ids"][0] == 1 for one in samples) == first
    with pytest.raises(InputFileError, match=r"sample 3: .* leave no room"):
        spec.samples(TextReader("", made, 1), (text,), 2)


def test_padding_changes_nothing_and_perplexity_is_that_of_torch(llama):
    """Rows in batches equal those alone; cross-entropy, KL and agreement are torch's own."""
    data = sentences(6)
    together, alone = (tokenize(llama.tokenizer, data.texts, batch_size=b, kind="next_tokens") for b in (6, 1))
    assert not together[0].mask.all() and llama.tokenizer.padding_side == "right"
    rows = [collect(llama.head, llama.model, batches).values for batches in (together, alone)]
    torch.testing.assert_close(rows[0], rows[1], rtol=1e-4, atol=1e-5)
    nats, count = 0.0, 0
    for batch in alone:
        ids = batch.inputs["input_ids"]
        with torch.no_grad():
            loss = llama.model(input_ids=ids, labels=ids).loss
        nats, count = nats + float(loss) * (ids.shape[1] - 1), count + ids.shape[1] - 1
    other = rows[0] + torch.randn(rows[0].shape, generator=torch.Generator().manual_seed(0))
    measured = evaluate(llama, data, other)
    assert measured.perplexity.value == pytest.approx(math.exp(nats / count), rel=1e-5)
    divergence = torch.nn.functional.kl_div(
        rows[0].double().log_softmax(-1), other.double().log_softmax(-1), log_target=True, reduction="batchmean"
    )
    assert measured.kl.value == pytest.approx(float(divergence), rel=1e-6)
    assert measured.agreement.value == pytest.approx(float((rows[0].argmax(-1) == other.argmax(-1)).double().mean()))
    assert measured.kl.low < measured.kl.value < measured.kl.high and measured.num_windows is None


def test_windows_of_a_long_text_are_counted_and_grouped(llama):
    """A text longer than the limit is read in windows, none of it is lost, and all of its windows are one text."""
    short = cut_at(llama, 8)
    data = sentences(5, longest=14)
    measured = evaluate(short, data, outputs(short, data))
    tokens = sum(len(llama.tokenizer(text)["input_ids"]) - 1 for (text,) in data.texts)
    batches = evaluation_batches(short, data)
    answers = collect(short.head, short.model, batches)
    assert (len(answers.values), answers.num_texts, measured.num_samples) == (tokens, 5, 5)
    assert measured.num_windows == answers.num_samples > 5 and measured.num_cut == 0
    assert measured.kl.value == pytest.approx(0, abs=1e-9) and measured.agreement.value == 1
    targets = read_targets(short, data, batches)
    assert targets.of(collect(short.head, short.model, batches)).tolist() == targets.rows.tolist()
    assert sum(len(one.indices) for one in single_samples(batches)) == measured.num_windows


def test_a_window_ends_where_layers_stop_seeing(tmp_path):
    """Mistral's layers see 24 tokens: texts are read in windows of 24, and a longer limit is refused."""
    loaded = load_model(save(tmp_path / "mistral", "mistral"))
    assert loaded.longest == 24 and profile_model(loaded).position_limit == 24
    with pytest.raises(UsageError, match=r"`max_tokens` 30: .* reads 4 to 24 tokens"):
        cut_at(loaded, 30)


def test_other_families_are_refused_in_one_line(tmp_path):
    """Mixtures of experts, state spaces, encoder-decoders, tokens that see later ones; each says what it is."""
    shape = {"vocab_size": len(PIECES), "hidden_size": 16, "num_hidden_layers": 1, "bos_token_id": 1, "eos_token_id": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 16}
    cases = (
        (transformers.MixtralConfig(**shape, **heads, num_local_experts=2), "MixtralForCausalLM", "mixture of experts"),
        (transformers.MambaConfig(**shape, state_size=4), "MambaForCausalLM", "mamba has no attention layers"),
        (transformers.T5Config(vocab_size=len(PIECES), d_model=16, num_layers=1, num_heads=2, d_kv=8, d_ff=16),
         "T5ForConditionalGeneration", "T5ForConditionalGeneration, which has an encoder and a decoder"),
    )  # fmt: skip
    for number, (config, name, reason) in enumerate(cases):
        folder = tmp_path / str(number)
        getattr(transformers, name)(config).save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        with pytest.raises(InputFileError, match=reason) as found:
            load_model(folder)
        assert "\n" not in str(found.value)
    encoder = transformers.BertLMHeadModel(transformers.BertConfig(
        vocab_size=len(PIECES), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            initializer_range=0.5,
    )).eval()  # fmt: skip
    made = tokenizer()
    made.pad_token = "</s>"
    [batch] = tokenize(made, sentences(1).texts, batch_size=1, max_tokens=20, kind="next_tokens")
    with pytest.raises(InputFileError, match="its tokens see later ones"):
        check_causal(head_of(encoder), encoder, batch, "bert")


def test_routes_that_do_not_take_decoders(llama, tmp_path):
    """Engines' writers and vocabulary trimming refuse in one line that says what is possible."""
    with pytest.raises(UsageError, match=r"onnxruntime: .* is a decoder.*from_pretrained.*export-config"):
        check_convertible("onnxruntime", llama, [])
    with pytest.raises(UsageError, match=r"is a decoder.*only encoders' are trimmed"):
        trim_vocabulary(llama, [sentences(4)], tmp_path / "trimmed")


def test_a_layer_without_attention_is_refused():
    """A block that only mixes with a convolution, and weights that are no linear layer's, are named."""
    loaded = directly("llama")
    loaded.model.model.layers[1].extra = torch.nn.Parameter(torch.zeros(3, 4, 4))
    with pytest.raises(
        InputFileError, match=r"model\.layers\.1\.extra of LlamaForCausalLM is not the weight of a linear"
    ):
        profile_model(loaded)


def test_transposed_layers_are_the_same_as_plain_ones(tmp_path):
    """GPT-2, and GPT-2 with every layer rewritten as a plain linear one: the same scores, codes and answers."""
    loaded = load_model(save(tmp_path / "gpt2", "gpt2"))
    plain = load_model(tmp_path / "gpt2")
    for name, module in list(plain.model.named_modules()):
        if isinstance(module, Conv1D):
            layer = torch.nn.Linear(*module.weight.shape)
            layer.weight = torch.nn.Parameter(module.weight.detach().T.contiguous())
            layer.bias = module.bias
            plain.model.set_submodule(name, layer.eval())
    data, choices = sentences(24), grid((2, 3), ("columns:16",), "gptq")
    tables = [measure_sensitivity(one, data, choices, plan=CalibrationPlan(8, 8, 0)) for one in (loaded, plain)]
    assert [m.transposed for m in tables[0].profile.matrices] == [True] * 8
    assert tables[0].values() == pytest.approx(tables[1].values(), rel=1e-4)
    plans = [allocate(table, Limits(encoder_bytes=14000)) for table in tables]
    assert [m.choice for m in plans[0].matrices] == [m.choice for m in plans[1].matrices]
    found = []
    for one, plan in zip((loaded, plain), plans, strict=True):
        quantizer = plan_quantizer(one, plan, data)
        codes = [quantizer.quantize(m, [choice("3bit/columns:16/gptq")])[0].codes for m in plan.profile.matrices]
        answers = collect(one.head, apply_plan(one, plan, quantizer).model, evaluation_batches(one, data)).values
        found.append((codes, answers))
    assert all(torch.equal(a, b) for a, b in zip(found[0][0], found[1][0], strict=True))
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-5)
    assert found[0][0][0].shape == (96, 32)
