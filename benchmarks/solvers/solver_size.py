"""How large a decoder can the command line plan? Time and memory of each step for thousands of matrices.

    python -m benchmarks.solvers.solver_size OUT.json [--layers 358 1429] [--folds 8] [--time-limit 60s]

Writes made-up scores of decoders with 7 matrices per layer and 36 choices each (bits 2, 4, 8 × ranges of 32, 64, 128
inputs × four forms; 1,429 layers are 10,003 matrices), with parts for cross-fitting as real scores have and a scored
cache. Then `qbert-opt solve` plans for a Raspberry Pi 5 with limits on peak memory, on tokens per second at a cache of
4,096 tokens and, by the device file, on the stored model, once with the cache pinned at 16 bits and once with its bits
left to the program. Per run: seconds of processor and wall time, peak memory, status and proven gap. Per step (read,
price, solve, cross-fit and assemble, write): the same steps called from Python in one process.

A score is sensitivity × 4^-bits × the square root of the range's width, with scatter, as in `solvers_instances.py`.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.records import machine
from hwmodels import load_device
from qbert_opt.costs.workload import workload_of
from qbert_opt.planning.constraints import PlanConstraints
from qbert_opt.planning.loss_limit import solve_asked
from qbert_opt.planning.planner import allocation_of
from qbert_opt.planning.possible import unscored
from qbert_opt.planning.program import PlanningTask
from qbert_opt.planning.solving import SolverOptions
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.spec.allocation import read_allocation, write_allocation
from qbert_opt.spec.cache import cache_bytes
from qbert_opt.spec.choices import Choice
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.profiles import HeadSpec, MatrixSpec, ModelProfile, TableSpec
from qbert_opt.spec.score_parts import CacheScores
from qbert_opt.spec.scores import ScoreTable, read_scores, write_scores

DEVICE, CONTEXT, PROMPT = "rpi5", 4096, 64
HIDDEN, FEED_FORWARD, HEADS, KEY_VALUE_HEADS, VOCABULARY = 256, 768, 4, 2, 32000
FORMS = ("offset", "symmetric", "signed", "zero-point")
CHOICES = tuple(
    Choice(bits, f"columns:{size}", "rtn", form) for form in FORMS for bits in (2, 4, 8) for size in (32, 64, 128)
)
SHAPES = (
    ("query", "q_proj", HIDDEN, HIDDEN),
    ("key", "k_proj", HIDDEN * KEY_VALUE_HEADS // HEADS, HIDDEN),
    ("value", "v_proj", HIDDEN * KEY_VALUE_HEADS // HEADS, HIDDEN),
    ("attention_output", "o_proj", HIDDEN, HIDDEN),
    ("intermediate", "gate_proj", FEED_FORWARD, HIDDEN),
    ("intermediate", "up_proj", FEED_FORWARD, HIDDEN),
    ("output", "down_proj", HIDDEN, FEED_FORWARD),
)


def profile(layers: int) -> ModelProfile:
    """Return a deep and narrow decoder."""
    matrices = tuple(
        MatrixSpec(module=f"model.layers.{block}.{part}", kind=kind, block=block, rows=rows, columns=columns)
        for block in range(layers)
        for kind, part, rows, columns in SHAPES
    )
    table = TableSpec(module="model.embed_tokens", rows=VOCABULARY, columns=HIDDEN, reads_per_token=1)
    head = HeadSpec(module="lm_head", rows=VOCABULARY, columns=HIDDEN, per_token=True, tied_to=table.module)
    return ModelProfile(
        name=f"made-up-{len(matrices)}", architecture="CausalLM", sha256="0" * 64, num_blocks=layers, hidden=HIDDEN,
        heads=HEADS, key_value_heads=KEY_VALUE_HEADS, causal=True, matrices=matrices, tables=(table,), head=(head,),
        other_elements=(2 * layers + 1) * HIDDEN, position_limit=32768,
    )  # fmt: skip


def scores(layers: int, folds: int, seed: int = 0) -> ScoreTable:
    """Return made-up scores of such a decoder."""
    rng = np.random.default_rng(seed)
    table = unscored(profile(layers), CHOICES)
    shape = (len(table.profile.matrices), len(CHOICES))
    bits = np.array([choice.bits for choice in CHOICES], dtype=float)
    width = np.array([int(choice.grouping.split(":")[1]) for choice in CHOICES], dtype=float)
    around_zero = np.array([choice.form != "offset" for choice in CHOICES])
    mean = np.exp(rng.normal(0, 2.3, (shape[0], 1))) * 1e-4 * 4.0**-bits * np.sqrt(width) * (1 + 0.3 * around_zero)
    mean = mean * np.exp(rng.normal(0, 0.35, shape))
    parts = mean * rng.gamma(4, 0.25, (folds, *shape))
    value = parts.mean(axis=0) if folds else mean

    def rows(array: np.ndarray) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(float(f"{x:.6g}") for x in row) for row in array.tolist())

    least = float(np.sum(value[:, bits == 4].min(axis=1)))
    cache = CacheScores(bits=(8, 4), value=(0.002 * least, 0.03 * least), std_error=(0.0, 0.0), contains="made up")
    return table.model_copy(
        update={
            "value": rows(value), "std_error": rows(value / 8), "weight_error": rows(value),
            "fold_value": tuple(rows(part) for part in parts), "cache": cache,
        }
    )  # fmt: skip


def speed_asked(table: ScoreTable) -> float:
    """Return the tokens per second of a step that takes 30 % of the way from the fastest plan's to the slowest's."""
    work = workload_of(table.profile, PROMPT, context=CONTEXT)
    task = PlanningTask(table, Limits(), device=load_device(DEVICE), workload=work)
    seconds = task.tables.usage["token_bound_s"]
    between = (0.7 * seconds.min(axis=1) + 0.3 * seconds.max(axis=1)).sum()
    return round(1 / (between + task.tables.fixed["token_bound_s"]), 3)


def memory_asked(model: ModelProfile) -> int:
    """Return bytes for 5 bits per weight, the tables, an fp16 cache and 20 MB of activations."""
    return int(model.encoder_elements * 5 / 8) + model.fixed_bytes + cache_bytes(model, CONTEXT, 16) + 20_000_000


def steps(path: str, speed: float, memory: int, limit_s: float) -> dict[str, object]:
    """Run the steps of `solve` one after the other in this process."""
    seconds, started = {}, [time.process_time()]

    def done(name: str) -> None:
        seconds[name] = round(time.process_time() - started[0], 2)
        started[0] = time.process_time()

    table = read_scores(path)
    done("read")
    limits = Limits(tokens_per_s=speed, memory_bytes=memory)
    work = workload_of(table.profile, PROMPT, context=CONTEXT)
    task = PlanningTask(
        table, limits, device=load_device(DEVICE), workload=work, constraints=PlanConstraints(cache_bits=(16,))
    )
    assert task.tables.usage and task.rows
    done("price")
    task, program, _ = solve_asked(task, SolverOptions(time_limit_s=limit_s), ())
    done("solve")
    plan = allocation_of(task, program)
    done("cross-fit and assemble")
    write_allocation(plan, f"{path}.plan.json")
    done("write")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "peak_mib": round(peak), "status": plan.status, "gap": plan.gap}


def solved(path: Path, arguments: list[str]) -> dict[str, object]:
    """Run `qbert-opt solve` and return what it took and what it proved."""
    plan = path.with_suffix(".plan.json")
    command = ["qbert_opt", "solve", "--scores", str(path), "--device", DEVICE, "--seq-len", str(PROMPT), *arguments]
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", *command, "-o", str(plan), "--json"], stdout=subprocess.DEVNULL)
    _, code, used = os.wait4(process.pid, 0)
    if code:
        raise SystemExit(f"{' '.join(command)}: exit code {os.waitstatus_to_exitcode(code)}")
    found = read_allocation(plan)
    assert found.device is not None and found.device.decode is not None and found.cache is not None
    return {
        "arguments": arguments, "wall_s": round(time.perf_counter() - started, 1),
        "processor_s": round(used.ru_utime + used.ru_stime, 1), "peak_mib": round(used.ru_maxrss / 1024),
        "status": found.status, "gap": found.gap, "cache_bits": found.cache.bits, "solver": found.solver,
        "tokens_per_s": found.device.decode.tokens_per_s, "peak_memory_bytes": found.device.peak_memory_bytes,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, nargs="+", default=[358, 1429])
    parser.add_argument("--folds", type=int, default=8)
    parser.add_argument("--time-limit", default="60s")
    parser.add_argument("--only", choices=("steps", "pinned", "free"), help="one of the three parts")
    parser.add_argument("--steps-of", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.steps_of:
        path, speed, memory = options.steps_of
        print(json.dumps(steps(path, float(speed), int(memory), float(options.time_limit.rstrip("s")))))
        return
    document = json.loads(options.out.read_text()) if options.out.exists() else {"rows": []}
    document |= {"command": " ".join(["python -m", __spec__.name, *sys.argv[1:]]), "machine": machine()}
    for layers in options.layers:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "scores.json"
            table = scores(layers, options.folds)
            write_scores(table, path)
            speed = speed_asked(table)
            del table
            memory = memory_asked(profile(layers))
            row: dict[str, object] = {
                "commit": code_commit(), "matrices": 7 * layers, "choices": len(CHOICES), "folds": options.folds,
                "scores_mb": round(path.stat().st_size / 1e6, 1), "tokens_per_s": speed, "memory_bytes": memory,
            }  # fmt: skip
            asked = ["--min-tokens-per-s", str(speed), "--max-memory", f"{memory}B", "--context", str(CONTEXT)]
            asked += ["--time-limit", options.time_limit]
            if options.only in (None, "steps"):
                child = [sys.executable, "-m", __spec__.name, str(options.out), "--time-limit", options.time_limit]
                child += ["--steps-of", str(path), str(speed), str(memory)]
                answer = subprocess.run(child, check=True, capture_output=True, text=True)
                row["steps"] = json.loads(answer.stdout)
            if options.only in (None, "pinned"):
                row["pinned"] = solved(path, [*asked, "--cache-bits", "16"])
            if options.only in (None, "free"):
                row["free"] = solved(path, [*asked, "--cache-bits", "16,8,4"])
            document["rows"] = [*document["rows"], row]
            options.out.write_text(json.dumps(document, indent=1) + "\n")
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
