"""Decoders on the command line: both phases, tokens per second as a limit, refusals in one line."""

import html
import json
import re

import pytest
from decoder_shapes import gpt2, scores_of

from qbert_opt.spec.score_parts import CacheScores
from qbert_opt.spec.scores import read_scores, write_scores

ON_PI = ("--device", "rpi5", "--context", "512")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Scores of two layers of GPT-2's shapes, without and with scores of the cache."""
    folder = tmp_path_factory.mktemp("decoder")
    plain = scores_of(gpt2(layers=2))
    write_scores(plain, folder / "scores.json")
    cache = CacheScores(bits=(8, 4), value=(1e-3, 0.1), std_error=(0.0, 0.0), contains="made up")
    write_scores(plain.model_copy(update={"cache": cache}), folder / "cached.json")
    return folder


def test_solve_and_simulate_report_both_phases(cli, folder):
    """Time to the first token, tokens per second, DRAM bytes per token, and the cache beside the weights."""
    found = cli("solve", "--scores", folder / "scores.json", *ON_PI, "--budget", "4bit", "--cache-bits", "8",
                "-o", folder / "plan.json")  # fmt: skip
    assert found.code == 0, found.err
    assert "wrote " in found.out
    told = cli("simulate", folder / "plan.json", *ON_PI, "--batch-size", "2")  # the cache is as wide as planned
    parts = ("first token", "tokens/s", "per token", "cache of 512", "at 8 bits, one fp16 scale", "for the prompt")
    for out in (found.out, told.out):
        for part in (*parts, "rounding of the cache to this width is not in the predicted loss"):
            assert part in out, out
    assert "of 2 sequences together" in told.out
    both = json.loads(cli("simulate", folder / "plan.json", *ON_PI, "--json").out)
    plan = json.loads((folder / "plan.json").read_text())
    assert set(both) == {"prefill", "decode"}
    assert plan["cache"] == {"bits": 8, "predicted_loss": None, "std_error": None}
    decode = plan["device"]["decode"]
    assert (
        decode["token_s"] == both["decode"]["latency_s"] < both["prefill"]["latency_s"] == plan["device"]["latency_s"]
    )


def test_the_views_show_the_phase_that_is_asked_for(cli, folder):
    """A token by default: its products have one row; with `--phase prefill` the prompt's."""
    plan = folder / "views.json"
    assert cli("solve", "--scores", folder / "scores.json", *ON_PI, "--budget", "4bit", "-o", plan).code == 0
    token, prompt = (
        json.loads(cli("simulate", plan, *ON_PI, "--per-op", "json", *phase).out)
        for phase in ((), ("--phase", "prefill"))
    )
    compared = cli("simulate", plan, *ON_PI, "--compare", "int8", "--phase", "prefill").out
    assert "DRAM / prompt" in compared and "DRAM / token" in cli("simulate", plan, *ON_PI, "--compare", "int8").out
    assert [row["name"] for row in token] == [row["name"] for row in prompt]
    assert sum(row["compute_s"] for row in token) < sum(row["compute_s"] for row in prompt) / 10


def test_speed_and_the_cache_are_chosen_together(cli, folder):
    """A scored cache is as wide as the limit allows; without scores the program says that it cannot choose."""
    found = cli("solve", "--scores", folder / "cached.json", *ON_PI, "--min-tokens-per-s", "250", "--json")
    assert found.code == 0, found.err
    plan = json.loads(found.out)
    assert plan["cache"]["bits"] < 16 and plan["device"]["decode"]["tokens_per_s"] >= 250
    assert plan["roundings"] == ["matrices", "cache"]
    refused = cli("solve", "--scores", folder / "scores.json", *ON_PI, "--budget", "4bit", "--cache-bits", "16,8")
    assert refused.code == 2 and "--cache-bits 16,8: no loss was scored for a cache of 8 bits" in refused.err


def test_the_frontier_over_a_token(cli, folder):
    """`pareto --resource token` spans the latency of a step."""
    found = cli("pareto", "--scores", folder / "scores.json", *ON_PI, "--resource", "token", "--points", "4")
    assert found.code == 0 and "token of the searched matrices" in found.out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--min-tokens-per-s", "9999"), 3, "is above the ceiling: fastest feasible"),
        (("--budget", "4bit", "--cache-bits", "6"), 2, "--cache-bits 6: legal: 16, 8, 4"),
        (("--budget", "4bit", "--seq-len", "600"), 2, "the cache holds the prompt too. Give at least --seq-len 600"),
        (("--min-tokens-per-s", "0"), 2, "--min-tokens-per-s 0: is no limit"),
        (("--max-loss", "1", "--least", "tokens"), 2, "--least tokens: legal: bytes, total-bytes, latency, token"),
    ],
)  # fmt: skip
def test_refusals(cli, folder, arguments, code, said):
    """One line each, with the exit code of its kind."""
    found = cli("solve", "--scores", folder / "scores.json", *ON_PI, *arguments)
    assert found.code == code and said in found.err, found.err
    assert found.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("solve", "--device", "car-soc", "--min-tokens-per-s", "5"),
        ("solve", "--device", "car-soc", "--context", "5"),
        ("solve", "--device", "car-soc", "--cache-bits", "8"),
        ("pareto", "--device", "car-soc", "--context", "5"),
    ],
)
def test_an_encoder_makes_no_tokens(cli, arguments):
    """Refused in one line, with what they are legal for."""
    found = cli(*arguments)
    assert found.code == 2 and "is an encoder" in found.err and "legal for decoders" in found.err, found.err


def test_scores_of_a_cache_survive_their_file(folder, tmp_path):
    """And a file without them does not name them."""
    table = read_scores(folder / "cached.json")
    write_scores(table, tmp_path / "again.json")
    assert read_scores(tmp_path / "again.json") == table
    assert table.cache.multiplied(2.0).value == (2e-3, 0.2) and table.cache_loss(4) == (0.1, 0.0)
    assert '"cache"' not in (folder / "scores.json").read_text()


def test_the_page_prices_both_phases_as_simulate_does(cli, folder):
    """First token, tokens per second, bytes and energy of a token, and the same limits; no encoder is spoken of."""
    plan, page = folder / "page.json", folder / "page.html"
    assert cli("solve", "--scores", folder / "cached.json", *ON_PI, "--budget", "4bit", "--cache-bits", "8",
               "-o", plan).code == 0  # fmt: skip
    told = cli("simulate", plan, *ON_PI).out
    facts = dict(
        line.strip().split(maxsplit=1) for line in told.splitlines() if line.startswith(("  speed", "  cache"))
    )
    dram = re.search(r"DRAM traffic +(\S+ \S+) per token", told)[1]
    assert cli("report", plan, "-s", folder / "cached.json", "--device", "rpi5", "-o", page).code == 0
    text = html.unescape(page.read_text())
    speed = facts["speed"].partition(";")[0]
    assert f"then {speed}" in text and f"<td>{facts['speed']}</td>" in text
    assert f"<td>{facts['cache']}</td>" in text and "keys and values of 512 tokens at 8 bits" in facts["cache"]
    assert f'<td data-name="DRAM per token">{dram}</td>' in text
    assert "limits.latency 500.00 ms: for one answer of an encoder" in text
    assert "Decoder layers downwards" in text and "encoder bytes" not in text and "encoder matrices" not in text
    assert "qbert-opt evaluate FOLDER" in text and "qbert-opt optimize" not in text and "--engine" not in text
    assert cli("report", plan, "--device", "rpi5", "--seq-len", "256", "-o", page).code == 0
    assert "keys and values of 512 tokens at 8 bits" in page.read_text()  # another prompt, the planned cache


def test_limits_of_a_device_that_decoders_do_not_keep_are_named(cli, folder):
    """By solve and simulate, of prompts of several lengths too, which are held to no more than one is."""
    plan = folder / "named.json"
    found = cli(
        "solve", "--scores", folder / "cached.json", *ON_PI, "--budget", "4bit", "--cache-bits", "4", "-o", plan
    )
    line = "rpi5: limits.latency 500.00 ms: for one answer of an encoder, not applied to a decoder"
    assert "decoder matrices" in found.out and line in found.out
    one = cli("simulate", plan, *ON_PI, "--seq-len", "512").out
    mix = cli("simulate", plan, "--device", "rpi5", "--lengths", "512:1").out
    assert line in one and line in mix and "for the prompt alone" in mix and "over limit" not in one + mix
    both = json.loads(cli("simulate", plan, *ON_PI, "--seq-len", "512", "--json").out)
    several = json.loads(cli("simulate", plan, "--device", "rpi5", "--lengths", "512:1", "--json").out)
    assert several["peak_memory_bytes"] == both["prefill"]["peak_memory_bytes"]  # a cache of the planned width


def test_which_engines_are_said_to_run_a_decoder(cli, folder):
    """The same choices run in an encoder; of decoders llama.cpp alone takes a file, and torch opens the folder."""
    found = cli("solve", "--scores", folder / "scores.json", *ON_PI, "--budget", "8bit").out
    assert "runs today in    none of its engines" in found and "llama-cpp holds 2, 3, 4, 5, 6, 7, 8 bits" in found
    none = cli("solve", "--scores", folder / "scores.json", "--device", "car-soc", "--budget", "8bit").out
    assert "runs today in    none of its engines (tidl); none of them takes a decoder;" in none
    assert "runs today in    torch" in cli("solve", "--scores", folder / "scores.json", "--device", "h100").out


def test_bytes_of_a_file_that_no_writer_makes_are_named(cli, folder):
    """By simulate as by solve, of prompts of several lengths and in JSON too; torch opens the folder itself."""
    plan = folder / "engine.json"
    line = "to which qbert-opt cannot export a decoder"
    solved = cli("solve", "--scores", folder / "scores.json", *ON_PI, "--engine", "onnxruntime", "-o", plan)
    assert solved.code == 0 and line in solved.out, solved.err
    assert f"a file of onnxruntime, {line}" in cli("simulate", plan, *ON_PI).out
    assert f"a file of onnxruntime, {line}" in cli("simulate", plan, "--device", "rpi5", "--lengths", "256:1").out
    both = json.loads(cli("simulate", plan, *ON_PI, "--json").out)
    assert all(any(line in note for note in both[phase]["notes"]) for phase in ("prefill", "decode"))
    packed = folder / "packed.json"
    assert cli("solve", "--scores", folder / "scores.json", "--device", "h100", "-o", packed).code == 0
    assert line not in cli("simulate", packed, "--device", "h100", "--engine", "torch").out
