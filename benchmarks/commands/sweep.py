"""What does a sweep cost beside the same verbs one after the other, what does it not repeat, what does a kill lose?

    python -m benchmarks.commands.sweep benchmarks/commands/sweep_results.json
    python -m benchmarks.commands.sweep OUT --models 2 --rounds 1

Small classifiers of SNIPS intents, trained here, on four devices with three budgets each: score, plan, quantize,
measure. Processor time is that of each process with all its children; the verbs run in one process, so that they load
torch once, as a worker does, and the sweep with one worker, in turns with the verbs. Then one model changes, and in a
sweep of the last model a worker is killed (SIGKILL) while it scores.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

from benchmarks.records import machine

ROOT = Path(__file__).parents[2]
DEVICES = ("car-soc", "rpi5", "imx8mp", "orin-nano")
BUDGETS = ("3bit", "4bit", "6bit")
SAMPLES = ("--calibration-samples", "64", "--scoring-samples", "64")
SIZES = tuple(product((1, 2, 3), (32, 48, 64, 80)))  # layers, width: twelve models
KILLED = "score"
INFEASIBLE = 3  # exit code


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--models", type=int, default=len(SIZES))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--verbs", help=argparse.SUPPRESS)  # runs the verbs of a folder in this process
    arguments = parser.parse_args()
    if arguments.verbs:
        run_verbs(Path(arguments.verbs), Path(arguments.out))
        return
    with tempfile.TemporaryDirectory() as scratch:
        result = measured(Path(scratch), arguments.models, arguments.rounds)
    Path(arguments.out).write_text(json.dumps(result, indent=1) + "\n")


def measured(scratch: Path, count: int, rounds: int) -> dict:
    """Every figure of the result file."""
    from qbert_opt.runtime.provenance import code_commit, code_version, today

    names = train(scratch, count)
    text = {"data": "snips/dev", "test_data": "snips/test", "devices": list(DEVICES), "budgets": list(BUDGETS)}
    text |= {"calibration_samples": 64, "scoring_samples": 64}
    for file, swept_models in (("sweep.yaml", names), ("one.yaml", names[-1:])):
        models = {"models": [{"folder": name, "name": name} for name in swept_models]}
        (scratch / file).write_text(json.dumps(models | text))  # JSON is YAML
    pairs = []
    for number in range(rounds):
        verbs_s, _, _ = timed(sys.executable, "-m", __spec__.name, scratch / f"verbs{number}", "--verbs", scratch)
        sweep_s, wall_s, found = swept(scratch, f"sweep{number}", "1")
        pairs.append(
            {"verbs_cpu_s": verbs_s, "sweep_cpu_s": sweep_s, "sweep_wall_s": wall_s, "ratio": sweep_s / verbs_s}
        )
        print(pairs[-1], file=sys.stderr, flush=True)
    same = compared(scratch / "verbs0", found)
    again_s, _, again = swept(scratch, "sweep0", "1")
    change(scratch / names[0])
    changed_s, _, changed = swept(scratch, "sweep0", "1")
    infeasible = sum(row["status"] == "infeasible" for row in found["rows"])
    return {
        "command": " ".join(["python -m", __spec__.name, *sys.argv[1:]]), "commit": code_commit(),
        "version": code_version(), "date": today(), "machine": machine(),
        "load_average": os.getloadavg(),
        "models": [f"{layers} layers, {width} wide" for layers, width in SIZES[:count]],
        "rows": len(found["rows"]), "infeasible": infeasible, "steps": found["num_tasks"], "rounds": pairs,
        "same_plans_as_the_verbs": same,
        "nothing_changed": {"found": again["num_found"], "steps": again["num_tasks"], "cpu_s": again_s},
        "one_model_changed": {"found": changed["num_found"], "steps": changed["num_tasks"], "cpu_s": changed_s},
        "killed": killed(scratch),
    }  # fmt: skip


def train(scratch: Path, count: int) -> list[str]:
    """Train the models; returns their folders' names."""
    sys.path.insert(0, str(ROOT / "notebooks"))
    from small_model import train_small_model

    names = []
    for layers, width in SIZES[:count]:
        names.append(f"bert-{layers}x{width}")
        train_small_model(scratch / names[-1], layers=layers, hidden=width)
    return names


def run_verbs(scratch: Path, out: Path) -> None:
    """Run every verb of the sweep in this process, one after the other."""
    import contextlib
    import io

    from qbert_opt.cli import main as cli

    def verb(*words: object) -> str:
        sys.argv = ["qbert-opt", *map(str, words)]
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
            cli.run()
        return said.getvalue()

    out.mkdir()
    for model in (entry["folder"] for entry in json.loads((scratch / "sweep.yaml").read_text())["models"]):
        folder, scores = scratch / model, out / f"{model}.json"
        verb("sensitivity", "--model", folder, "--data", "snips/dev", "-o", scores, "--quiet", *SAMPLES)
        for device, budget in product(DEVICES, BUDGETS):
            name = f"{model}.{device}.{budget}"
            plan, quantized = out / f"{name}.json", out / name
            try:
                verb("solve", "--scores", scores, "--device", device, "--budget", budget, "-o", plan)
            except SystemExit as stop:
                if stop.code != INFEASIBLE:
                    raise
                continue
            verb("quantize", plan, "--model", folder, "--data", "snips/dev", "-o", quantized, "--quiet")
            said = verb("evaluate", quantized, "--data", "snips/test", "--reference", folder, "--json")
            (out / f"{name}.measured.json").write_text(said)


def swept(scratch: Path, name: str, workers: str) -> tuple[float, float, dict]:
    """Run a sweep; returns its processor and wall time and what it printed."""
    command = ("-m", "qbert_opt", "sweep", scratch / "sweep.yaml", "-o", scratch / name, "--workers", workers)
    return timed(sys.executable, *command, "--json", "--quiet", parse=True)


def timed(*command: object, parse: bool = False) -> tuple[float, float, dict]:
    """Run a command; returns processor time of it and its children, wall time, and its output as JSON."""
    before, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu_s, time.perf_counter() - clock, json.loads(done.stdout) if parse else {}


def compared(verbs: Path, found: dict) -> dict:
    """How many plans of the sweep are those of the verbs: every choice, predicted and measured loss."""
    same = 0
    for row in found["rows"]:
        name = f"{row['model']}.{row['device']}.{row['budget']}"
        if row["status"] == "infeasible":
            same += not (verbs / f"{name}.json").exists()
            continue
        ours, theirs = json.loads(Path(row["plan"]).read_text()), json.loads((verbs / f"{name}.json").read_text())
        measured = json.loads((verbs / f"{name}.measured.json").read_text())["points"][0]["loss"]
        fields = ("matrices", "tables", "predicted_loss", "encoder_bytes", "device")
        same += all(ours[field] == theirs[field] for field in fields) and row["measured_loss"] == measured
    return {"same": same, "rows": len(found["rows"])}


def change(folder: Path) -> None:
    """Change one weight of a model."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    name = min(tensors)
    tensors[name] = tensors[name] + torch.full_like(tensors[name], 1e-3)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def killed(scratch: Path) -> dict:
    """Kill a worker some time into a score; the sweep must end by itself, and says what was lost."""
    out = scratch / "killed"
    command = (
        sys.executable,
        "-m",
        "qbert_opt",
        "sweep",
        scratch / "one.yaml",
        "-o",
        out,
        "--workers",
        "1",
        "--json",
    )
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    begun = wait_for(lambda: next((out / "artifacts" / KILLED).glob("*.making/.begun"), None))
    partial = begun.with_name("scores.json.partial")
    wait_for(lambda: (partial.is_file() and len(partial.read_text().splitlines()) >= 3) or None)
    worker = holder(begun.parent.with_name(f".{begun.parent.stem}.lock"))
    seconds = time.time() - float(begun.read_text())
    os.kill(worker, signal.SIGKILL)
    printed, _ = process.communicate()
    result = json.loads(printed)
    statuses = sorted({row["status"] for row in result["rows"]})
    return {"step": KILLED, "killed_after_s": seconds, "lost_s": result["lost_s"], "exit_code": process.returncode,
            "rows": statuses}  # fmt: skip


def wait_for(look):
    """Return what a function finds, as soon as it finds it."""
    while True:
        try:
            found = look()
        except OSError:
            found = None
        if found is not None:
            return found
        time.sleep(0.05)


def holder(lock: Path) -> int:
    """The process that holds a lock file."""
    return int(lock.read_text().split()[1])


if __name__ == "__main__":
    main()
