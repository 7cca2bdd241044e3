"""A family over sizes, depths and devices: each member is what is found alone, and none loses more than without."""

import json

import pytest

from qbert_opt.costs.workload import Workload
from qbert_opt.errors import InfeasibleError, UsageError
from qbert_opt.planning.depth import shortened_scores
from qbert_opt.planning.device_classes import plan_for_each
from qbert_opt.reports.devices import device_table, family_table
from qbert_opt.reports.printing import print_lines
from qbert_opt.scoring.layer_drops import Shortened
from qbert_opt.spec.activations import selected_activations
from qbert_opt.spec.allocation import read_allocation
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.score_parts import ActivationScores
from qbert_opt.workflows.depth import best_depth
from qbert_opt.workflows.family import family, family_on_devices
from qbert_opt.workflows.solve import solve_plans

POINTS = 7


@pytest.fixture(scope="module")
def scores(deep_scores):
    """Sums only: no plan is solved again to judge it."""
    return deep_scores.model_copy(update={"fold_value": ()})


@pytest.fixture(scope="module")
def cheap(deep_drops):
    """Layers of random weights are dear; here some are worth leaving out."""
    return [
        Shortened(item.dropped.model_copy(update={"predicted_loss": 0.02 * item.dropped.predicted_loss}), item.profile)
        for item in deep_drops
    ]


@pytest.fixture(scope="module")
def members(scores, cheap):
    return family(scores, cheap, "bytes", points=POINTS)


def layers_of(plan):
    return () if plan.dropped is None else plan.dropped.layers


def test_members_are_what_is_found_for_each_budget_alone(scores, cheap, members):
    """With layers, losses and proof; and nothing of any depth loses less, by trying them all."""
    for member in members:
        limits = Limits(encoder_bytes=member.budget)
        assert member.plan == best_depth(scores, cheap, lambda table: solve_plans(table, limits))[1].plan  # noqa: B023
        assert member.plan.encoder_bytes <= member.budget and member.plan.status == "optimal"
        sums = []
        for item in (None, *cheap):
            try:
                plan = solve_plans(scores if item is None else shortened_scores(scores, item), limits).plan
            except InfeasibleError:
                continue
            sums.append(plan.sum_of_scores + (0.0 if item is None else item.dropped.predicted_loss))
        assert member.plan.sum_of_scores == pytest.approx(min(sums), rel=1e-9)


def test_a_family_reaches_from_the_shortest_models_to_the_whole_one(scores, cheap, members):
    """Larger members lose less; without drops no budget has a better plan, and the smallest have none."""
    assert len(layers_of(members[0].plan)) == 2 and layers_of(members[-1].plan) == ()
    losses = [member.plan.sum_of_scores for member in members]
    assert losses == sorted(losses, reverse=True) and len(set(losses)) == len(losses) > 3
    sizes = [member.plan.encoder_bytes for member in members]
    assert sizes == sorted(sizes)
    least = solve_plans(scores, Limits(encoder_bytes=10**9)).plan
    assert members[-1].plan.sum_of_scores == pytest.approx(least.sum_of_scores)
    better = 0
    for member in members:
        limits = Limits(encoder_bytes=member.budget)
        try:
            whole = solve_plans(scores, limits).plan.sum_of_scores
        except InfeasibleError:
            better += 1
            continue
        assert member.plan.sum_of_scores <= whole * (1 + 1e-9)
        better += member.plan.sum_of_scores < whole
    assert better
    assert family(scores, (), "bytes", points=POINTS)[-1].plan == members[-1].plan


def test_from_python_as_from_the_command_line(scores, deep_drops, members, cheap):
    """The names of the package are these functions; what one measures, the others take."""
    import qbert_opt as qb
    from qbert_opt.scoring.layer_drops import layer_drops

    assert qb.layer_drops is layer_drops and len(deep_drops) == 10  # one or two of four layers
    assert [m.plan for m in qb.family(scores, cheap, "bytes", points=POINTS)] == [m.plan for m in members]
    [entry] = qb.family_on_devices(scores, cheap, ["car-soc"], qb.Limits(), qb.Workload(16))
    assert entry.device == "car-soc" and entry.plan.status == "optimal"


@pytest.mark.parametrize("resource", ["total-bytes", "latency"])
def test_other_resources_and_costs_of_a_device(scores, cheap, car_soc, resource, capsys):
    found = family(scores, cheap, resource, points=3, device=car_soc, workload=Workload(16))
    assert all(member.plan.status == "optimal" for member in found)
    for member in found:
        used = member.plan.device.latency_s if resource == "latency" else member.plan.total_bytes
        assert used <= member.budget * (1 + 1e-9)
    print_lines([family_table(found)])
    shown = capsys.readouterr().out
    assert "latency" in shown and "optimal, gap 0e+00" in shown and "2 of 4, without" in shown


def limited(device, weight_bytes):
    return device.model_copy(
        update={"limits": device.limits.model_copy(update={"weights": weight_bytes}), "id": f"w{weight_bytes}"}
    )


def test_each_device_gets_the_best_depth_under_its_limits(scores, cheap, car_soc, capsys):
    """A device too small for the whole model gets a shorter one; one too small for any says why."""
    whole = [solve_plans(scores, Limits(encoder_bytes=b)).plan.total_bytes for b in (10**9, members_least(scores))]
    devices = [limited(car_soc, size) for size in (whole[0], whole[1] + 1, whole[1] - 2000, 100)]
    workload = Workload(16)
    plain = plan_for_each(scores, devices, Limits(), workload)
    found = family_on_devices(scores, cheap, devices, Limits(), workload)
    assert [item.plan is None for item in plain] == [False, False, True, True]
    assert [item.plan is None for item in found] == [False, False, False, True]
    for device, ours, theirs in zip(devices, found, plain, strict=True):
        assert ours.device == theirs.device == device.id
        if ours.plan is None:
            assert "weights" in ours.reason or "bytes" in ours.reason
            continue
        alone = best_depth(
            scores,
            cheap,
            lambda table: solve_plans(table, Limits(), device=device, workload=workload),  # noqa: B023
        )
        assert ours.plan == alone[1].plan and ours.plan.total_bytes <= device.limits.weights
        assert theirs.plan is None or ours.plan.sum_of_scores <= theirs.plan.sum_of_scores * (1 + 1e-9)
    assert layers_of(found[0].plan) == () and layers_of(found[2].plan) != ()
    print_lines([device_table(found, depth=True)])
    assert "all 4" in capsys.readouterr().out


@pytest.fixture(scope="module")
def with_inputs(scores):
    """Each matrix reads an input of its own, scored in 4 and 8 bits."""
    inputs = tuple((matrix.module,) for matrix in scores.profile.matrices)
    value = ((1e-4, 1e-6),) * len(inputs)
    activations = ActivationScores(
        inputs=inputs, choices=("4bit/token", "8bit/token"), value=value, std_error=value,
        ranges=((None, None),) * len(inputs), contains="made up",
    )  # fmt: skip
    return scores.model_copy(update={"activations": activations})


def test_scored_inputs_are_rounded_as_solve_does(with_inputs, cheap, car_soc):
    """Without a device to any scored width, on one to its own; on each of several devices, with and without drops."""
    workload = Workload(16)

    def alone(limits, device):
        def solve(table):
            inputs = selected_activations(None, None, table, device)
            return solve_plans(table, limits, device=device, workload=workload, activations=inputs)

        return best_depth(with_inputs, cheap, solve)[1].plan

    for device in (None, car_soc):
        found = family(with_inputs, cheap, "bytes", points=3, device=device, workload=workload)
        for member in found:
            assert "activations" in member.plan.roundings
            assert len(member.plan.activations) == len(member.plan.matrices)
            assert member.plan == alone(Limits(encoder_bytes=member.budget), device)
    assert {item.bits for item in found[-1].plan.activations} == {car_soc.activation_bits} == {8}
    [on_device] = family_on_devices(with_inputs, cheap, [car_soc], Limits(), workload)
    assert on_device.plan == alone(Limits(), car_soc)
    [whole] = plan_for_each(with_inputs, [car_soc], Limits(), workload)
    assert whole.plan.activations == on_device.plan.activations and len(whole.plan.activations) > 0


def members_least(scores):
    """The fewest bytes of a plan of the whole model."""
    return family(scores, (), "bytes", points=2)[0].budget


def test_what_a_family_has_not(scores):
    for resource, more, message in (
        ("energy", {}, r"`resource` energy: a family extends over one of bytes, total-bytes, latency\."),
        ("latency", {}, r"`resource` latency: needs `device`"),
        ("bytes", {"points": 1}, r"`points` 1: give 2 or more"),
    ):
        with pytest.raises(UsageError, match=message):
            family(scores, (), resource, **more)


def test_the_command_line_writes_plans_that_solve_finds_alone(cli, deep_folder, data_file, tmp_path):
    """One run measures and solves; a member's file is the plan of `solve` at its bytes, and of a device's run."""
    scores, out, alone = (tmp_path / name for name in ("scores.json", "plans", "alone.json"))
    named = tmp_path / "named.tsv"
    named.write_text(data_file.read_text().replace("text\tlabel", "words\tkind", 1))
    text = ("--model", deep_folder, "--data", named, "--text-column", "words", "--label-column", "kind")
    found = cli("sensitivity", *text, "--method", "rtn", "--bits", "2,8", "--groupings", "rows:each",
                "--calibration-samples", 20, "--scoring-samples", 40, "-o", scores, "-q")  # fmt: skip
    assert found.code == 0, found.err
    of = ("pareto", "--scores", scores, *text, "--allow-drop", 1)
    found = cli(*of, "--points", 3, "--plans", out, "-q")
    assert found.code == 0, found.err
    assert "3 of 4, without" in found.out and "all 4" in found.out and f"wrote {out}" in found.out
    plans = sorted(out.iterdir())
    smallest = read_allocation(plans[0])
    assert smallest.dropped is not None and plans[0].name == f"01-{smallest.total_bytes}-bytes.json"
    found = cli(
        "solve", "--scores", scores, *text, "--allow-drop", 1, "-b", f"{smallest.encoder_bytes}B", "-o", alone, "-q"
    )
    assert found.code == 0, found.err
    assert read_allocation(alone).matrices == smallest.matrices and read_allocation(alone).dropped == smallest.dropped
    found = cli(*of, "--devices", "car-soc,rpi5", "--json", "-q", "--plans", tmp_path / "devices")
    assert found.code == 0, found.err
    assert [row["device"] for row in json.loads(found.out)] == ["car-soc", "rpi5"]
    assert read_allocation(tmp_path / "devices" / "car-soc.json").device.name == "car-soc"
    found = cli(*of, "--points", 2, "--json", "-q")
    assert [row["status"] for row in json.loads(found.out)] == ["optimal"] * 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--allow-drop 1", "--allow-drop: needs --model and --data"),
        ("--allow-drop 1 -m m --data d --resource energy", "--resource energy: with --allow-drop legal: bytes"),
        ("--allow-drop 1 -m m --data d --resource bytes,latency", "--resource bytes,latency: with --allow-drop legal"),
        ("--allow-drop 1 -m m --data d --plot p.png", "a plot shows plans of one depth. Remove --plot."),
        ("--allow-drop 1 -m m --data d -o x.json", "With --allow-drop, --plans DIR writes each plan."),
        ("--allow-drop 1 -m m --data d --plans .", "exists and is not an empty folder"),
    ],
)
def test_what_allow_drop_does_not_go_with(cli, more, message):
    found = cli("pareto", *more.split())
    assert found.code == 2 and message in found.complaint
