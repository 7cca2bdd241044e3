"""A small trained decoder through the command line: scores, plan, folder, perplexity, configs for other tools."""

import json
import random

import pytest
import torch
from decoders import save
from transformers import AutoModelForCausalLM, AutoTokenizer

import qbert_opt

RHYME = "abcdefgh"


def lines(count, seed):
    """Distinct texts whose every word follows from the one before."""
    every = [(start, length) for start in range(8) for length in range(3, 12)]
    chosen = random.Random(seed).sample(every, count)
    return [" ".join(RHYME[(start + k) % 8] * 2 for k in range(length)) for start, length in chosen]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a Llama that has learned such texts, and files of other such texts."""
    root = tmp_path_factory.mktemp("decoder")
    save(root / "model", "llama", max_position_embeddings=64)
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(root / "model"),
        AutoTokenizer.from_pretrained(root / "model"),
    )
    tokenizer.pad_token = "</s>"
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(25):
        batch = tokenizer(lines(16, step), return_tensors="pt", padding=True)
        loss = model(**batch, labels=batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(root / "model")
    for name, texts in (
        ("fit", lines(40, 99)),
        ("test", lines(12, 100)),
    ):
        (root / f"{name}.tsv").write_text("text\n" + "\n".join(texts) + "\n")
    return root


def test_scores_plan_folder_and_perplexity(cli, work, monkeypatch):
    """Each verb works on a decoder; the plan keeps the perplexity, and predicted stands beside measured."""
    monkeypatch.chdir(work)
    grid = ("--bits", "3,8", "--groupings", "rows:heads,rows:each", "--method", "rtn")
    assert cli("sensitivity", "-m", "model", "--data", "fit.tsv", "-o", "scores.json", *grid, "-q",
               "--calibration-samples", "8", "--scoring-samples", "16").code == 0  # fmt: skip
    assert cli("solve", "-s", "scores.json", "--budget", "6bit", "-o", "plan.json").code == 0
    assert cli("quantize", "plan.json", "-m", "model", "--data", "fit.tsv", "-o", "out", "-q").code == 0
    found = cli("evaluate", "out", "--data", "test.tsv", "--reference", "model")
    assert found.code == 0 and "perplexity" in found.out and "agreement" in found.out
    printed = cli("evaluate", "out", "--data", "test.tsv", "--reference", "model", "--json")
    figures = json.loads(printed.out)
    before = json.loads(cli("evaluate", "model", "--data", "test.tsv", "--json").out)
    assert 1 < before["perplexity"]["value"] < 6, "85 without having learned"
    assert figures["perplexity"]["value"] == pytest.approx(before["perplexity"]["value"], rel=0.2)
    assert figures["kl"]["low"] <= figures["kl"]["value"] <= figures["kl"]["high"] < 0.2
    assert 0.5 < figures["agreement"]["value"] <= 1
    predicted = qbert_opt.read_allocation("plan.json").predicted_loss
    assert 0.2 < figures["kl"]["value"] / predicted < 5

    (work / "measured.json").write_text(printed.out)
    assert cli("report", "plan.json", "-s", "scores.json", "--measured", "measured.json", "-o", "plan.html").code == 0
    page = (work / "plan.html").read_text()
    assert f"perplexity {figures['perplexity']['value']:.4g} [" in page and "top-1 agreement" in page

    # a tool or an engine that would take the plan otherwise refuses it
    assert cli("export-config", "plan.json", "--to", "gptqmodel", "-o", "gptq.json").code == 0
    rules = json.loads((work / "gptq.json").read_text())["dynamic"]
    assert r"+:^model\.layers\.0\.mlp\.gate_proj$" in rules and len(rules) == 14
    refused = cli("export-config", "plan.json", "--to", "nncf", "-o", "nncf.json")
    assert refused.code == 2 and "model is a decoder; legal for it: autoround" in refused.complaint
    refused = cli("export", "out", "--engine", "onnxruntime", "-o", "exported", "-q")
    assert refused.code == 2 and "is a decoder, which its writer does not convert" in refused.complaint
    (work / "labels.tsv").write_text("text\tlabel\naa bb\tx\nbb cc\ty\n")
    refused = cli("fine-tune", "--encoder", "model", "--data", "labels.tsv", "--kind", "classes", "-o", "tuned")
    assert refused.code == 2 and "is a decoder; heads are trained on encoders" in refused.complaint


def test_one_command_for_an_engine_refuses_a_decoder(cli, work, monkeypatch):
    """In one line that names the verbs that do it, before anything is scored."""
    monkeypatch.chdir(work)
    refused = cli("optimize", "-m", "model", "--data", "fit.tsv", "--budget", "5bit",
                  "--engine", "llama-cpp", "-o", "optimized", "-q")  # fmt: skip
    assert refused.code == 2 and "is a decoder, which optimize does not export" in refused.complaint
    assert "export" in refused.complaint and not (work / "optimized").exists()
