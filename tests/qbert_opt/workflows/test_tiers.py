"""A model with its table in tiers, from the plan to quantized folders, engines and other tools."""

import pytest
import torch
from subwords import TEXTS, save

from qbert_opt.checkpoint.reader import load_quantized, open_packed
from qbert_opt.configs.tools import ai_edge_quantizer
from qbert_opt.costs.engine_target import engine_target
from qbert_opt.data.texts import LabeledTexts
from qbert_opt.engines.session import engine
from qbert_opt.errors import UsageError
from qbert_opt.evaluation.evaluate import outputs
from qbert_opt.models.loading import load_model
from qbert_opt.models.structure import profile_model
from qbert_opt.planning.constraints import PlanConstraints
from qbert_opt.planning.possible import check_possible, unscored
from qbert_opt.planning.recipes import given_allocation
from qbert_opt.quantization.calibration import weight_of
from qbert_opt.spec.choices import choice
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.tables import table_grid
from qbert_opt.workflows.export import check_convertible, export_model
from qbert_opt.workflows.export_config import export_plan
from qbert_opt.workflows.integer import integer_model
from qbert_opt.workflows.quantize import quantize_model
from qbert_opt.workflows.trim_vocabulary import trim_vocabulary

TEXT = LabeledTexts("texts", tuple((text,) for text in TEXTS), None)
BITS = {"tier0": 8, "tier1": 4, "tier2": 2}


@pytest.fixture(scope="module")
def tiered(tmp_path_factory):
    """A BERT whose words are in three tiers."""
    root = tmp_path_factory.mktemp("tiers")
    trim_vocabulary(load_model(save(root / "whole", "WordPiece")), [TEXT], root / "out", min_count=0, tiers=(0.1, 0.3))
    return load_model(root / "out")


@pytest.fixture(scope="module")
def plan(tiered):
    """Every tier with bits of its own."""
    profile = profile_model(tiered)
    tiers = {t.module: choice(f"{BITS[t.module[-5:]]}bit/rows:each/mse") for t in profile.tables if t.tier_of}
    assert len(tiers) == 3
    return given_allocation(
        profile, {m.module: choice("4bit/columns:32/rtn/symmetric") for m in profile.matrices} | tiers
    )


@pytest.fixture(scope="module")
def quantized(tiered, plan, tmp_path_factory):
    """The folder of that plan; its size is checked against the plan's as it is written."""
    return quantize_model(tiered, plan, TEXT, tmp_path_factory.mktemp("q") / "out").folder


def test_every_tier_has_its_bits_and_both_ways_of_opening_agree(tiered, plan, quantized):
    """Codes of each tier, bytes that add up by hand, and packed tables that answer as the dequantized ones."""
    loaded, written = load_quantized(quantized)
    tables = [table for table in written.tables if "tier" in table.module]
    for table in tables:
        bits = BITS[table.module[-5:]]
        assert table.bits == bits and table.bytes == table.rows * (32 * bits // 8 + 4)
        levels = [len(row.unique()) for row in weight_of(loaded.model, table.module)]
        assert max(levels) <= 2**bits
    assert [table.rows for table in tables] == tiered.model.config.table_tiers
    torch.testing.assert_close(outputs(open_packed(quantized), TEXT), outputs(loaded, TEXT), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_engines_with_a_graph_hold_tiers(quantized, tmp_path, name):
    """The answers are compared with PyTorch's as the export is written."""
    if not engine(name).usable():
        pytest.skip(f"{name} is not installed")
    record = export_model(quantized, name, tmp_path / "out", texts=TEXT, activations="float32")
    assert record.agreement.loss < 1e-6


def test_plans_for_what_holds_whole_tables_have_no_tiers(tiered):
    """Whatever the choice; others, and whole tables, are as before."""
    whole, tier = (next(t for t in profile_model(tiered).tables if bool(t.tier_of) == split) for split in (False, True))
    held = choice("8bit/rows:each/mse/symmetric")
    for name in ("litert", "llama-cpp", "integer"):
        target = engine_target(name)
        assert target.refusal(tier, held).endswith("word_embeddings; it holds tables as a whole")
        assert target.refusal(whole, held) is None
    assert engine_target("onnxruntime").refusal(tier, held) is None


@pytest.mark.parametrize(
    ("given", "holding"),
    [
        ({"engine": "litert"}, "litert holds"),
        ({"engine": "llama-cpp"}, "llama-cpp holds"),
        ({"engine": "integer"}, "integer holds"),
        ({"portable": ("litert", "llama-cpp", "openvino")}, "litert and llama-cpp hold"),
    ],
)
def test_tiers_are_the_first_thing_that_is_refused(tiered, given, holding):
    """Before forms that the engine lacks: scoring in others would not help. Whether or not tables are scored."""
    grid, constraints = [choice("4bit/rows:each/rtn")], PlanConstraints(**given)
    for tables in ((), table_grid()):
        with pytest.raises(UsageError, match=f"word_embeddings of .* is in tiers, and {holding} whole tables. Plan"):
            check_possible(unscored(profile_model(tiered), grid, tables), Limits(), constraints=constraints)
    for others in ({"engine": "openvino"}, {"engine": "torch"}):
        check_possible(unscored(profile_model(tiered), grid), Limits(), constraints=PlanConstraints(**others))


def test_what_holds_one_table_refuses_tiers(plan, quantized, tmp_path):
    """By name, with what to do instead, and before anything is written."""
    for name in ("litert", "llama-cpp"):
        with pytest.raises(UsageError, match=f"`engine` {name}: .* table of words in tiers"):
            check_convertible(name, load_quantized(quantized)[0], ())
        if engine(name).usable():
            with pytest.raises(UsageError, match=f"`engine` {name}: .* table of words in tiers.* Use `engine` onnxrun"):
                export_model(quantized, name, tmp_path / "out", texts=TEXT)
    with pytest.raises(UsageError, match="a table of words in tiers has no integer form"):
        integer_model(quantized, TEXT, tmp_path / "out")
    with pytest.raises(UsageError, match="word_embeddings is in tiers, and a TFLite file holds one table"):
        export_plan(plan, ai_edge_quantizer, ".json")
    assert not (tmp_path / "out").exists()
