"""Every supported family: roles by structure, every parameter once, costs of the whole model, files there and back."""

import itertools

import numpy as np
import pytest
import torch
from families import FAMILIES, HEADS, save, tiny_model, tokenizer

from hwmodels import operations
from qbert_opt.checkpoint.reader import load_quantized, open_packed
from qbert_opt.costs.block_walk import ATTENTION_KINDS
from qbert_opt.costs.operations import Storage, model_graph
from qbert_opt.costs.pricing import option_tables
from qbert_opt.costs.simulate import simulate_allocation
from qbert_opt.costs.workload import Workload
from qbert_opt.data.texts import LabeledTexts
from qbert_opt.models.batches import tokenize
from qbert_opt.models.loading import LoadedModel, load_model
from qbert_opt.models.outputs import collect
from qbert_opt.models.structure import profile_model
from qbert_opt.planning.planner import allocate
from qbert_opt.quantization.calibration import CalibrationPlan
from qbert_opt.scoring.sensitivity import measure_sensitivity
from qbert_opt.spec.grids import grid
from qbert_opt.spec.limits import Limits
from qbert_opt.workflows.quantize import quantize_model, writing_quantizer
from qbert_opt.workflows.verify import apply_plan

PLAIN = list(ATTENTION_KINDS)
FUSED = ["query_key_value", "attention_output", "intermediate", "output"]
BLOCKS = {
    "albert": PLAIN,
    "deberta-v2 with its own position keys": [*PLAIN[:3], "position", "position", *PLAIN[3:]],
    "mobilebert": ["linear", "linear", *PLAIN, *PLAIN[4:], "linear"],
    "modernbert": FUSED,
}


def loaded_model(family, kind="classes", attention="eager"):
    return LoadedModel(family, tiny_model(family, kind, attention), tokenizer(), "hash")


@pytest.mark.parametrize("family", FAMILIES)
def test_roles_are_found_by_structure(family):
    """Query, key, value, attention output, wide and narrow layer of every block, whatever they are called."""
    profile = profile_model(loaded_model(family))
    for block in range(profile.num_blocks):
        assert [m.kind for m in profile.matrices if m.block == block] == BLOCKS.get(family, PLAIN)
    names = {m.kind: m.module.rsplit(".", 1)[-1][0] for m in profile.matrices}
    assert family == "modernbert" or (names["query"], names["key"], names["value"]) == ("q", "k", "v")
    assert (profile.heads, profile.hidden) == (4, 32)


@pytest.mark.parametrize("family", FAMILIES)
def test_roles_do_not_depend_on_the_attention_implementation(family):
    """Fused attention and its plain form give the same profile."""
    try:
        fused = loaded_model(family, attention="sdpa")
    except ValueError:
        assert family in ("mpnet", "deberta-v2", "deberta-v2 with its own position keys")  # have no fused form
        return
    assert profile_model(fused).model_dump(exclude={"sha256"}) == profile_model(loaded_model(family)).model_dump(
        exclude={"sha256"}
    )


@pytest.mark.parametrize(("family", "kind"), list(itertools.product(FAMILIES, HEADS)))
def test_every_parameter_is_counted_once(family, kind):
    """Matrices, tables and the rest are disjoint and are all parameters, tied and shared ones once."""
    loaded = loaded_model(family, kind)
    profile = profile_model(loaded)
    weights = {id(p): p.numel() for p in loaded.model.parameters()}
    named = [loaded.model.get_parameter(f"{part.module}.weight") for part in (*profile.matrices, *profile.tables)]
    assert len({id(weight) for weight in named}) == len(named)
    for part, weight in zip((*profile.matrices, *profile.tables), named, strict=True):
        assert weights.pop(id(weight)) == part.rows * part.columns
    assert sum(weights.values()) == profile.other_elements
    own = [spec for spec in profile.head if not spec.tied_to]
    assert sum(spec.rows * spec.columns for spec in own) <= profile.other_elements
    assert all(id(loaded.model.get_parameter(f"{spec.module}.weight")) in weights for spec in own)


@pytest.mark.parametrize(("family", "kind"), list(itertools.product(FAMILIES, ("classes", "vocabulary"))))
def test_the_operator_graph_stores_the_whole_model(family, kind):
    """The weights of all operations together are the model's bytes, as floats and quantized; the graph is connected."""
    profile = profile_model(loaded_model(family, kind))
    work = Workload(seq_len=16)
    floats = operations(model_graph(profile, None, work, float_bits=32))
    assert sum(op.weight.stored_bytes for op in floats.values() if op.weight) == profile.float_bytes
    [choice] = grid((4,), ("rows:1",), "rtn")
    graph = model_graph(profile, {m.module: Storage(choice) for m in profile.matrices}, work)
    stored = sum(op.weight.stored_bytes for op in operations(graph).values() if op.weight)
    encoder = sum(choice.bytes(m.rows, m.columns, heads=4) for m in profile.matrices)
    assert stored == encoder + profile.fixed_bytes
    ends = [name for name in graph if not graph.out_degree(name)]
    assert len(ends) == 1, "every result is read, but the last"


@pytest.mark.parametrize("family", FAMILIES)
def test_multiplications_are_those_of_the_model(family):
    """Multiply-accumulates of matrix products, counted by torch while the model runs, and those of the graph."""
    from torch.utils.flop_counter import FlopCounterMode

    loaded = loaded_model(family)
    inputs = {"input_ids": torch.arange(5, 21)[None], "attention_mask": torch.ones(1, 16, dtype=torch.int64)}
    with FlopCounterMode(display=False) as counter:
        loaded.model(**inputs)
    graph = model_graph(profile_model(loaded), None, Workload(seq_len=16), float_bits=32)
    found = 0
    for op in operations(graph).values():
        if op.kind in ("gemm", "matmul"):
            found += 2 * op.repeats * op.batch * op.m * op.n * op.k
    assert found == counter.get_total_flops()


def test_shared_layers_are_stored_once_and_run_often(car_soc):
    """ALBERT's one layer costs the time and traffic of three and the bytes of one."""
    shared, single = (profile_model(loaded_model("albert")) for _ in range(2))
    assert (shared.num_blocks, shared.num_layers) == (1, 3)
    assert {m.uses for m in shared.matrices} == {3}
    single = shared.model_copy(update={"matrices": tuple(m.model_copy(update={"uses": 1}) for m in shared.matrices)})
    choices = grid((4,), ("rows:1",), "rtn")
    legal = torch.ones(len(shared.matrices), 1, dtype=torch.bool).numpy()
    three, one = (option_tables(p, choices, legal, car_soc, Workload(16)).usage for p in (shared, single))
    for row in ("dram_bytes", "latency_bound_s", "dynamic_energy_j", "bops"):
        factor = three[row][:, 0] / one[row][:, 0]
        assert abs(factor - 3).max() < 1e-12, row
    assert (three["encoder_bytes"] == one["encoder_bytes"]).all()


def texts_for(kind):
    """Distinct sentences, or questions with texts, that the kind of head reads."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda n: " ".join(f"w{i}" for i in torch.randint(0, 59, (n,), generator=generator).tolist())  # noqa: E731
    texts = [(draw(3), draw(8)) if kind == "spans" else (draw(5 + i % 4),) for i in range(48)]
    return LabeledTexts(kind, tuple(texts), None)


@pytest.mark.parametrize(
    ("family", "kind"),
    [*((family, "classes") for family in FAMILIES), *(("bert", kind) for kind in HEADS if kind != "classes"),
     ("albert", "vocabulary"), ("modernbert", "tags"), ("electra", "spans")],
)  # fmt: skip
def test_score_solve_quantize_and_load(family, kind, tmp_path, car_soc):
    """The whole path; what is read back answers exactly as the original with its weights replaced."""
    loaded = load_model(save(tmp_path / "model", family, kind))
    data = texts_for(kind)
    choices = grid((2, 4), ("rows:1", "rows:heads", "columns:32"), "gptq")
    scores = measure_sensitivity(loaded, data, choices, plan=CalibrationPlan(16, 24, 0))
    scores = scores.model_copy(update={"fold_value": ()})  # no plan is solved eight times again to judge it
    assert scores.loss_unit == loaded.head.loss_unit
    assert np.nanmin(scores.values()) >= 0 and (np.nanmax(scores.values(), 1) > 0).all(), "every matrix counts"
    limits = Limits(encoder_bytes=scores.profile.encoder_elements * 3 // 8 + 900)
    plan = allocate(scores, limits, device=car_soc, workload=Workload(seq_len=16))
    assert plan.status == "optimal"
    assert simulate_allocation(plan, car_soc, Workload(seq_len=16)).weight_bytes == plan.total_bytes
    quantize_model(loaded, plan, data, tmp_path / "out")
    again, _ = load_quantized(tmp_path / "out")
    replaced = apply_plan(loaded, plan, writing_quantizer(loaded, plan, data))
    batches = tokenize(loaded.tokenizer, data.texts, batch_size=16, kind=kind)
    torch.testing.assert_close(
        collect(again.head, again.model, batches).values, collect(replaced.head, replaced.model, batches).values,
        rtol=0, atol=0,
    )  # fmt: skip
    packed = open_packed(tmp_path / "out")
    for model in (packed.model, packed.model.dequantize()):
        torch.testing.assert_close(
            collect(packed.head, model, batches).values, collect(again.head, again.model, batches).values
        )
