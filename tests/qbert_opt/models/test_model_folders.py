"""What is in a model folder is used, named or refused: weights, adapters, code, settings, sentence embeddings."""

import json
import logging
import shutil
import socket

import pytest
import torch
from families import FAMILIES, LABELS, save
from safetensors.torch import load_file, save_file
from torch import nn

from qbert_opt.checkpoint.reader import load_quantized, open_packed
from qbert_opt.checkpoint.record import read_record
from qbert_opt.data.texts import LabeledTexts
from qbert_opt.errors import InputFileError
from qbert_opt.models.architectures import blank_model
from qbert_opt.models.batches import tokenize
from qbert_opt.models.folder_files import LFS_POINTER, find_folder
from qbert_opt.models.loading import load_model
from qbert_opt.models.outputs import collect
from qbert_opt.models.sentence_embeddings import companion_files, embedding_of
from qbert_opt.models.weight_names import wrapper_prefix
from qbert_opt.models.windows import position_limit

POOLED = "1_Pooling/config.json"
QUERY = "bert.encoder.layer.0.attention.self.query"


@pytest.fixture
def folder(tiny_folder, tmp_path):
    """A copy of the tiny classifier to spoil."""
    return shutil.copytree(tiny_folder, tmp_path / "copy")


@pytest.fixture
def encoder(tmp_path):
    """A BERT without a head."""
    return save(tmp_path / "encoder", "bert", "embeddings")


def patch(folder, name="config.json", **fields):
    path = folder / name
    document = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**document, **fields}))


def rename(folder, change):
    """Write the weights under other names."""
    tensors = load_file(folder / "model.safetensors")
    save_file({change(name): t for name, t in tensors.items()}, folder / "model.safetensors", metadata={"format": "pt"})


def add(folder, shapes, dtype=torch.float32):
    tensors = load_file(folder / "model.safetensors")
    extra = {name: torch.ones(shape, dtype=dtype) for name, shape in shapes.items()}
    save_file({**tensors, **extra}, folder / "model.safetensors", metadata={"format": "pt"})


def sharded(folder, change=lambda weights: None, move=lambda folder: None):
    """Cut the weights into two shards, and change what the index says of them."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
    weights = {name: file for file, part in parts.items() for name in part}
    change(weights)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    move(folder)


def pickled_shard(folder):
    def move(folder):
        torch.save(load_file(folder / "model-2.safetensors"), folder / "pytorch_model-2.bin")

    sharded(folder, lambda w: w.update({n: "pytorch_model-2.bin" for n, f in w.items() if "-2" in f}), move)


def outer_shard(folder):
    sharded(
        folder,
        lambda w: w.update({n: "../outside.safetensors" for n, f in w.items() if "-2" in f}),
        lambda folder: shutil.move(folder / "model-2.safetensors", folder.parent / "outside.safetensors"),
    )


def adapter(folder, where="."):
    (folder / where).mkdir(exist_ok=True)
    (folder / where / "adapter_config.json").write_text('{"peft_type": "LORA"}')


def pickled_only(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


REFUSED = {
    "architectures null, head in the file": (
        lambda f: patch(f, architectures=None),
        r"classifier.bias \(2 such tensors\) has no place in a BertModel. If it is the head of a "
        r"…ForSequenceClassification, write that class into config.json's architectures",
    ),
    "architectures without head": (
        lambda f: patch(f, architectures=["BertModel"]),
        r"classifier.bias \(2 such tensors\) has no place in a BertModel",
    ),
    "another class than the model type makes": (
        lambda f: patch(f, architectures=["RobertaForSequenceClassification"]),
        r"names the class RobertaForSequenceClassification, but its model_type 'bert' is BertForSequence",
    ),
    "a decoder called Model": (
        lambda f: patch(f, architectures=["BertLMHeadModel"]),
        r"weight cls\.predictions\.bias is missing",
    ),
    "two architectures": (
        lambda f: patch(f, architectures=["BertForSequenceClassification", "BertModel"]),
        r"names several architectures",
    ),
    "fewer layers than the file": (
        lambda f: patch(f, num_hidden_layers=1),
        r"bert.encoder.layer.1.\S+ \(16 such tensors\) has no place in a BertForSequenceClassification",
    ),
    "adapter in the file": (
        lambda f: add(f, {f"{QUERY}.lora_A.default.weight": (4, 32), f"{QUERY}.lora_B.default.weight": (32, 4)}),
        r"query.lora_A.default.weight belongs to an adapter .* \(2 such tensors\).*merge_and_unload",
    ),
    "adapter beside the file": (adapter, r"has an adapter \(adapter_config.json\) that would not be used"),
    "adapter in a folder": (lambda f: adapter(f, "sst2"), r"has an adapter \(sst2/adapter_config.json\)"),
    "adapters in the config": (
        lambda f: patch(f, adapters={"adapters": {"sst2": "houlsby"}}),
        r"has an adapter \(config.json: adapters\)",
    ),
    "adapter alone": (
        lambda f: [adapter(f), (f / "config.json").unlink()],
        r"holds an adapter without its model. Merge it",
    ),
    "custom code": (
        lambda f: patch(f, auto_map={"AutoModelForSequenceClassification": "modeling_mine.Mine"}),
        r"config.json requires custom code \(auto_map\), which is never run",
    ),
    "custom tokenizer code": (
        lambda f: patch(f, "tokenizer_config.json", auto_map={"AutoTokenizer": ["mine.Mine", None]}),
        r"tokenizer_config.json requires custom code \(auto_map\)",
    ),
    "other weights named": (
        lambda f: patch(f, transformers_weights="other.safetensors"),
        r"config.json names other weights \(other.safetensors\)",
    ),
    "shard that is pickled": (pickled_shard, r"names 'pytorch_model-2.bin'; only safetensors files in the same folder"),
    "shard outside": (outer_shard, r"names '../outside.safetensors'; only safetensors files in the same folder"),
    "shard that is missing": (
        lambda f: sharded(f, move=lambda f: (f / "model-2.safetensors").unlink()),
        r"names model-2.safetensors, which is missing",
    ),
    "tensor that the index leaves out": (
        lambda f: sharded(f, lambda w: w.pop("classifier.weight")),
        r"classifier.weight is present but not listed",
    ),
    "index of nothing": (
        lambda f: sharded(f, lambda w: w.clear()),
        r"has no weight_map from tensors to files",
    ),
    "two sets of weights": (
        lambda f: [sharded(f), shutil.copy(f / "model-1.safetensors", f / "model.safetensors")],
        r"has model.safetensors and model.safetensors.index.json, which contradict each other",
    ),
    "pickled weights alone": (
        pickled_only,
        r"only pytorch_model.bin, which can run code .* transformers.BertForSequenceClassification.from_pretrained",
    ),
    "weights under another name": (
        lambda f: (f / "model.safetensors").rename(f / "model.fp16.safetensors"),
        r"has no model.safetensors \(there is model.fp16.safetensors\)",
    ),
    "quantized by another tool": (
        lambda f: patch(f, quantization_config={"quant_method": "gptq", "bits": 4}),
        r"is quantized already \(by gptq\). Give the float model",
    ),
    "quantized, method missing": (
        lambda f: patch(f, quantization_config={"load_in_8bit": True}),
        r"is quantized already \(by unknown\)",
    ),
    "integer weights": (
        lambda f: add(f, {f"{QUERY}.weight": (32, 32)}, torch.int8),
        r"query.weight is stored as I8; weights are read as F64, F32, F16, BF16",
    ),
    "git-lfs pointer of weights": (
        lambda f: (f / "model.safetensors").write_bytes(LFS_POINTER + b"v1\noid sha256:0\nsize 1\n"),
        r"model.safetensors: is a git-lfs pointer, not the file itself. Run 'git lfs pull'",
    ),
    "git-lfs pointer of a tokenizer": (
        lambda f: (f / "tokenizer.json").write_bytes(LFS_POINTER + b"v1\noid sha256:0\nsize 1\n"),
        r"tokenizer.json: is a git-lfs pointer",
    ),
    "empty weights": (
        lambda f: (f / "model.safetensors").write_bytes(b""),
        r"0 bytes, not a complete safetensors file",
    ),
    "config that is a list": (lambda f: (f / "config.json").write_text("[]"), r"holds a list, not an object"),
    "model type missing": (lambda f: patch(f, model_type=None), r"names model_type None, which the installed"),
    "vast vocabulary": (lambda f: patch(f, vocab_size=10**12), r"describes a model of 32,000,\S+ weights"),
    "a million layers": (lambda f: patch(f, num_hidden_layers=10**6), r"asks for 1000000 layers. Legal: 1 to 1000"),
    "head of another size": (
        lambda f: patch(f, id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1}),
        r"classifier.bias has shape \(3,\) in the file, and config.json makes it \(2,\) \(2 such in all\)",
    ),
    "gap in the labels": (
        lambda f: patch(f, id2label={"1": "a", "2": "b", "3": "c"}, label2id={}),
        r"id2label names output '3', but 3 outputs have the numbers 0 to 2",
    ),
    "label without a name": (
        lambda f: patch(f, id2label={"0": "a", "1": None, "2": "c"}, label2id={}),
        r"id2label must give each output a name",
    ),
    "labels that contradict each other": (
        lambda f: patch(f, label2id={"red": 1, "green": 0, "blue": 2}),
        r"id2label calls output 0 'red', but label2id gives it index 1",
    ),
    "count of labels that contradicts them": (lambda f: patch(f, num_labels=5), r"num_labels is 5, and id2label has 3"),
    "multi-label classification": (
        lambda f: patch(f, problem_type="multi_label_classification"),
        r"multi-label classification \(problem_type multi_label_classification\)",
    ),
    "unknown problem": (lambda f: patch(f, problem_type="ranking"), r"problem_type"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_kind_1_what_would_not_be_used_is_refused_by_name(folder, what):
    """One line that says what it is and what to do."""
    spoil, message = REFUSED[what]
    spoil(folder)
    with pytest.raises(InputFileError, match=message) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model.", "module._orig_mod."])
def test_kind_1_names_of_wrappers_are_taken_off(folder, tiny, prefix):
    """A compiled or distributed model was saved whole: it is the same model."""
    rename(folder, lambda name: prefix + name)
    loaded = load_model(folder)
    assert loaded.sha256 == tiny.sha256


def test_kind_1_a_family_keeps_its_own_prefix():
    """ModernBERT's encoder is called model."""
    assert wrapper_prefix(["model.a", "model.b"], "model") == ""
    assert wrapper_prefix(["module.model.a", "module.model.b"], "model") == "module."
    assert wrapper_prefix(["module.a", "b"], "bert") == wrapper_prefix([], "bert") == ""


def test_kind_1_shards_are_the_same_model(folder, tiny):
    """As transformers writes a large model."""
    sharded(folder)
    assert load_model(folder).sha256 == tiny.sha256


FORM_ONLY = {
    "return_dict": False,
    "torchscript": True,
    "output_attentions": True,
    "output_hidden_states": True,
    "attn_implementation": "flash_attention_2",
    "_attn_implementation": "someone/kernels",
}


@pytest.mark.parametrize("flag", FORM_ONLY)
def test_kind_1_flags_that_change_only_the_form_of_answers(folder, tiny, flag):
    """Answers are the same; attention from elsewhere is neither downloaded nor run."""
    patch(folder, **{flag: FORM_ONLY[flag]})
    loaded = load_model(folder)
    batches = tokenize(tiny.tokenizer, [("w1 w2 w3",), ("w4",)], batch_size=2)
    expected = collect(tiny.head, tiny.model, batches).values
    torch.testing.assert_close(collect(loaded.head, loaded.model, batches).values, expected)
    assert loaded.model.config._attn_implementation in ("sdpa", "eager")


def test_kind_1_a_pretraining_head_that_is_left_over_is_named(tmp_path, caplog):
    """BERT as it is published: its next-sentence head and pooler answer nothing of a masked word."""
    folder = save(tmp_path / "model", "bert", "vocabulary")
    add(folder, {"bert.pooler.dense.weight": (32, 32), "cls.seq_relationship.weight": (2, 32)})
    with caplog.at_level(logging.WARNING):
        load_model(folder)
    assert [r.getMessage() for r in caplog.records] == [
        f"warning: {folder}: bert.pooler.dense.weight, cls.seq_relationship.weight (2 tensors) not used"
    ]


def test_kind_1_a_pooler_that_is_missing_is_not_made_up(encoder):
    """Transformers fills in random weights, so that no plan would ever belong to the model again."""
    tensors = load_file(encoder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "pooler" not in name}
    save_file(kept, encoder / "model.safetensors", metadata={"format": "pt"})
    assert load_model(encoder).sha256 == load_model(encoder).sha256


@pytest.mark.parametrize(("activation", "said"), [("torch.nn.modules.activation.Sigmoid", 1), ("torch.nn.Identity", 0)])
def test_kind_1_an_activation_behind_the_answers_is_said(folder, caplog, activation, said):
    """What is compared are the numbers before it."""
    patch(folder, sentence_transformers={"activation_fn": activation})
    load_model(folder)
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [f"warning: {folder}: answers are taken before its activation, Sigmoid"][:said]


# sentence embeddings

TRANSFORMER = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
POOLING = {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
NORMALIZE = {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}
DENSE = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}


def sentence_folder(encoder, modules=(TRANSFORMER, POOLING), pooling=None, settings=None, prompts=None):
    (encoder / "modules.json").write_text(json.dumps(modules))
    (encoder / "1_Pooling").mkdir(exist_ok=True)
    (encoder / "1_Pooling" / "config.json").write_text(json.dumps(pooling or {"pooling_mode_cls_token": True}))
    (encoder / "sentence_bert_config.json").write_text(json.dumps(settings or {"max_seq_length": 30}))
    (encoder / "config_sentence_transformers.json").write_text(json.dumps(prompts or {}))
    return encoder


def by_hand(model, mode, texts, tokenizer):
    """Each text alone, its states pooled with plain indexing."""
    found = []
    for (text,) in texts:
        states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        found.append({
            "cls": lambda s: s[0], "max": lambda s: s.max(0).values, "mean": lambda s: s.sum(0) / len(s),
            "mean_sqrt_len_tokens": lambda s: s.sum(0) / len(s) ** 0.5,
        }[mode](states))  # fmt: skip
    return torch.stack(found)


TEXTS = [("w1 w2",), ("w3 w4 w5 w6 w7",)]


@pytest.mark.parametrize("mode", ["cls", "max", "mean", "mean_sqrt_len_tokens"])
@pytest.mark.parametrize("normalized", [False, True])
@torch.no_grad()
def test_kind_1_the_folders_pooling_is_what_is_scored(encoder, mode, normalized):
    """Beside a longer text, where padding must not enter; both spellings of the settings."""
    flag = {"mean": "pooling_mode_mean_tokens", "max": "pooling_mode_max_tokens", "cls": "pooling_mode_cls_token"}
    modules = (TRANSFORMER, POOLING, NORMALIZE) if normalized else (TRANSFORMER, POOLING)
    for pooling in ({"pooling_mode": mode}, {flag.get(mode, f"pooling_mode_{mode}"): True}):
        loaded = load_model(sentence_folder(encoder, modules, pooling))
        expected = by_hand(loaded.model, mode, TEXTS, loaded.tokenizer)
        if normalized:
            expected = expected / expected.norm(dim=1, keepdim=True)
        batches = tokenize(loaded.tokenizer, TEXTS, batch_size=2, kind="embeddings")
        torch.testing.assert_close(collect(loaded.head, loaded.model, batches).values, expected, atol=1e-5, rtol=1e-4)
        assert loaded.head.columns == 32
        assert loaded.tokenizer.model_max_length == 30


def test_kind_1_several_poolings_are_joined(encoder):
    """In sentence-transformers' own order."""
    loaded = load_model(
        sentence_folder(encoder, pooling={"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True})
    )
    batches = tokenize(loaded.tokenizer, TEXTS, batch_size=2, kind="embeddings")
    found = collect(loaded.head, loaded.model, batches).values
    expected = [by_hand(loaded.model, mode, TEXTS, loaded.tokenizer) for mode in ("cls", "mean")]
    torch.testing.assert_close(found, torch.cat(expected, 1), atol=1e-5, rtol=1e-4)
    assert loaded.head.columns == 64


def test_kind_1_a_quantized_folder_keeps_the_pooling(encoder, tmp_path):
    """At 8 bits the sentence embeddings are close to the original's, which a mean of states is not."""
    from qbert_opt.planning.planner import allocate
    from qbert_opt.quantization.calibration import CalibrationPlan
    from qbert_opt.scoring.sensitivity import measure_sensitivity
    from qbert_opt.spec.grids import grid
    from qbert_opt.spec.limits import Limits
    from qbert_opt.workflows.quantize import quantize_model

    loaded = load_model(sentence_folder(encoder, (TRANSFORMER, POOLING, NORMALIZE)))
    data = LabeledTexts("texts", tuple((f"w{i} w{i + 1} w{(7 * i) % 50}",) for i in range(40)), None)
    scores = measure_sensitivity(loaded, data, grid((8,), ("rows:1",), "rtn"), plan=CalibrationPlan(16, 16, 0))
    plan = allocate(scores, Limits(encoder_bytes=scores.profile.encoder_elements * 2))
    out = quantize_model(loaded, plan, data, tmp_path / "out").folder
    again, _ = load_quantized(out)
    batches = tokenize(loaded.tokenizer, data.texts, batch_size=8, kind="embeddings")
    expected = collect(loaded.head, loaded.model, batches).values
    torch.testing.assert_close(collect(again.head, again.model, batches).values, expected, atol=0.05, rtol=0)
    companions = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", POOLED)
    assert companion_files(encoder) == companion_files(out) == companions
    assert all((out / name).read_bytes() == (encoder / name).read_bytes() for name in companions)
    assert set(companions) <= read_record(out).files.keys()
    for open_ in (lambda folder: load_quantized(folder)[0], open_packed):
        assert embedding_of(open_(out).model.config).modes == embedding_of(loaded.model.config).modes
    _refuse_changed_companions(out)


def _refuse_changed_companions(folder):
    """A pooling that is changed, missing, linked, or beside the listed files."""
    pooling, elsewhere = folder / POOLED, folder.parent / "elsewhere"
    whole = pooling.read_bytes()
    pooling.write_text('{"pooling_mode_mean_tokens": true}')
    with pytest.raises(InputFileError, match=r"1_Pooling/config.json: is not the file that was written"):
        load_quantized(folder)
    pooling.unlink()
    with pytest.raises(InputFileError, match=r"1_Pooling/config.json: is missing"):
        load_quantized(folder)
    pooling.write_bytes(whole)
    extra = folder / "1_Pooling" / "extra.json"
    extra.write_text("{}")
    with pytest.raises(InputFileError, match=r"1_Pooling/extra.json: is not listed in config.json"):
        load_quantized(folder)
    extra.unlink()
    (folder / "1_Pooling").rename(elsewhere)
    (folder / "1_Pooling").symlink_to(elsewhere)
    with pytest.raises(InputFileError, match=r"1_Pooling/config.json: is a link to .*, outside the folder"):
        load_quantized(folder)


def test_kind_1_a_sentence_folder_without_its_pooling_file(encoder):
    """A pooling that `modules.json` names and that is missing is not guessed."""
    sentence_folder(encoder)
    (encoder / POOLED).unlink()
    with pytest.raises(InputFileError, match=r"1_Pooling/config.json: cannot be read: No such file"):
        load_model(encoder)


def test_kind_1_settings_deeper_than_a_sub_folder_are_refused_before_they_are_lost(encoder):
    sentence_folder(encoder, (TRANSFORMER, {**POOLING, "path": "a/1_Pooling"}))
    (encoder / "a").mkdir()
    (encoder / "1_Pooling").rename(encoder / "a" / "1_Pooling")
    load_model(encoder)
    with pytest.raises(InputFileError, match=r"names 'a/1_Pooling'; settings of modules are kept in sub-folders"):
        companion_files(encoder)


REFUSED_MODULES = {
    "dense": ({"modules": (TRANSFORMER, POOLING, DENSE)}, r"module 'Dense' \(2_Dense\) is not supported"),
    "no pooling": ({"modules": (TRANSFORMER,)}, r"has no Pooling"),
    "outside": ({"modules": (TRANSFORMER, {**POOLING, "path": "../1_Pooling"})}, r"names '../1_Pooling', outside"),
    "last token": ({"pooling": {"pooling_mode_lasttoken": True}}, r"pooling 'lasttoken' is not supported. Legal: cls"),
    "none": ({"pooling": {"pooling_mode_cls_token": False}}, r"pooling 'none' is not supported"),
    "unknown prompt": (
        {"prompts": {"prompts": {"query": "query: "}, "default_prompt_name": "passage"}},
        r"config_sentence_transformers.json: default_prompt_name is 'passage'. Legal: null, query",
    ),
    "prompts that are not texts": ({"prompts": {"prompts": {"query": 3}}}, r"prompts must be texts by name"),
    "prompt outside the pooling": (
        {
            "prompts": {"prompts": {"query": "w9 "}, "default_prompt_name": "query"},
            "pooling": {"pooling_mode": "mean", "include_prompt": False},
        },
        r"1_Pooling/config.json: leaves the prompt out of the pooling \(include_prompt\)",
    ),
    "length": ({"settings": {"max_seq_length": 0}}, r"max_seq_length is 0. Give a number of tokens, at least 1"),
    "too short": ({"settings": {"max_seq_length": 3}}, r"reads 3 tokens at most \(sentence_bert_config.json\)"),
    "lower case": ({"settings": {"do_lower_case": True}}, None),
}


@pytest.mark.parametrize("what", REFUSED_MODULES)
def test_kind_1_sentence_folders_that_ask_for_more(encoder, what):
    """Refused by name. Lower case is allowed where the tokenizer knows no capitals anyway."""
    options, message = REFUSED_MODULES[what]
    sentence_folder(encoder, **options)
    if message is None:
        load_model(encoder)
        return
    with pytest.raises(InputFileError, match=message) as caught:
        load_model(encoder)
    assert "\n" not in str(caught.value)


# errors of the libraries and of the system


def test_kind_10_a_mistyped_folder_is_said_at_once(tmp_path, monkeypatch):
    """Its parent is there, so it is not a hub model and nothing is downloaded."""
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("the network was asked"))
    with pytest.raises(InputFileError, match=r"^models/tyni: no such folder. Give a model folder, or a hub model"):
        load_model("models/tyni")


def test_kind_10_a_hub_without_network_is_asked_once(monkeypatch):
    """One line, no retries."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = []

    def fails(name, **options):
        asked.append(options["allow_patterns"])
        raise LocalEntryNotFoundError("no network\nat all")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    with pytest.raises(InputFileError, match=r"^owner/name: no such folder, and the hub cannot be reached.*[^\n]$"):
        load_model("owner/name")
    assert len(asked) == 1 and not any(pattern.endswith((".bin", ".pt", ".py")) for pattern in asked[0])


def test_kind_10_a_hub_model_is_checked_as_a_folder_is(folder, tiny, monkeypatch):
    """What was downloaded is a folder like any other."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **options: str(folder))
    loaded = load_model("owner/name")
    assert (loaded.name, loaded.sha256) == ("owner/name", tiny.sha256)
    adapter(folder)
    with pytest.raises(InputFileError, match=r"^owner/name: has an adapter"):
        load_model("owner/name")


@pytest.mark.parametrize("name", ["a" * 300, "folder/" + "b" * 5000, "zero\0byte", "/" + "c" * 300])
def test_kind_10_names_that_the_system_refuses(name):
    """A short line whatever the length."""
    with pytest.raises(InputFileError, match=r"no such folder|cannot be opened") as caught:
        find_folder(name)
    assert len(str(caught.value)) < 300


def test_kind_10_a_file_that_may_not_be_read(folder, monkeypatch):
    """Permissions are said as the system says them."""
    from pathlib import Path

    opened = Path.open

    def refuse(self, *args, **kwargs):
        if self.name == "model.safetensors":
            raise PermissionError(13, "Permission denied")
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputFileError, match=r"model.safetensors: cannot be read: Permission denied.$"):
        load_model(folder)


@pytest.mark.parametrize("family", [family for family in FAMILIES if "modernbert" not in family])
def test_windows_agree_with_the_tables_of_positions(family):
    """The window by the config is what the model's own table holds behind its padding index."""
    import transformers
    from families import COMMON

    name, shape = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(**COMMON, **shape)
    model = blank_model(config, family)
    for table_name, table in model.named_modules():
        if isinstance(table, nn.Embedding) and table_name.endswith("position_embeddings"):
            skipped = 0 if table.padding_idx is None else table.padding_idx + 1
            assert position_limit(config) == table.num_embeddings - skipped


def test_spans_with_three_outputs_are_refused(tmp_path):
    """A span is a start and an end."""
    folder = save(tmp_path / "model", "bert", "spans")
    patch(folder, id2label={"0": "a", "1": "b", "2": "c"}, label2id={})
    with pytest.raises(InputFileError, match=r"its span head has 3 outputs. Legal: 2, start and end"):
        load_model(folder)
    assert LABELS["spans"] == ("start", "end")


@pytest.mark.parametrize(
    ("name", "fields", "says"),
    [
        ("config.json", {"architectures": [5]}, r"config.json: architectures is \[5\]\. Give a list with one class"),
        ("config.json", {"architectures": "BertForSequenceClassification"}, "architectures is 'BertForSequenceClass"),
        ("config.json", {"hidden_act": "nonsense"}, "hidden_act is 'nonsense'. Legal: .*gelu"),
        ("config.json", {"hidden_size": "64"}, "hidden_size is '64'. Give a whole number, at least 1"),
        ("config.json", {"num_attention_heads": 0}, "num_attention_heads is 0. Give a whole number, at least 1"),
        ("config.json", {"id2label": ["a", "b"]}, "id2label is a list. Give an object, one entry per output"),
        ("tokenizer.json", {"model": None}, "tokenizer.json: is not a tokenizer: .*Save the tokenizer again"),
    ],
)
def test_kind_10_a_wrong_field_is_named_with_its_file(folder, name, fields, says):
    """The library's own messages name neither, or are a traceback."""
    patch(folder, name, **fields)
    with pytest.raises(InputFileError, match=says):
        load_model(folder)


@torch.no_grad()
def test_kind_1_the_default_prompt_goes_before_every_text(encoder):
    """As sentence-transformers does; other prompts are left to who writes the texts."""
    prompts = {"prompts": {"query": "w9 w8 ", "passage": "w7 "}, "default_prompt_name": "query"}
    loaded = load_model(sentence_folder(encoder, prompts=prompts, pooling={"pooling_mode": "mean"}))
    batches = tokenize(loaded.tokenizer, TEXTS, batch_size=2, kind="embeddings")
    written = [("w9 w8 w1 w2",), ("w9 w8 w3 w4 w5 w6 w7",)]
    expected = by_hand(loaded.model, "mean", written, loaded.tokenizer)
    torch.testing.assert_close(collect(loaded.head, loaded.model, batches).values, expected, atol=1e-5, rtol=1e-4)
    plain = load_model(
        sentence_folder(encoder, prompts=prompts | {"default_prompt_name": None}, pooling={"pooling_mode": "mean"})
    )
    again = tokenize(plain.tokenizer, written, batch_size=2, kind="embeddings")
    torch.testing.assert_close(collect(plain.head, plain.model, again).values, expected, atol=1e-5, rtol=1e-4)
