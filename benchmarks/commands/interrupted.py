"""Is anything half-written where a run is killed, interrupted or terminated at a random moment? Every verb that writes.

    python -m benchmarks.commands.interrupted benchmarks/commands/interrupted_results.json
    python -m benchmarks.commands.interrupted OUT --moments 3 --verbs sensitivity,quantize

A tiny model, in processes forked from this one, which has imported everything already: the moments lie in the work.
After each signal an output under its final name must open and be whole; what SIGINT and SIGTERM print must be one line
that names what is left; the same command must then run to its end and leave nothing but its output.
"""

import argparse
import functools
import gc
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import torch
import typer

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "qbert_opt"))
from families import LABELS, tiny_model, tokenizer

from qbert_opt.checkpoint.reader import load_quantized
from qbert_opt.cli import app, main, solving  # noqa: F401
from qbert_opt.engines.record import read_record
from qbert_opt.models.loading import load_model
from qbert_opt.planning.frontier import TradeOff
from qbert_opt.reports import exchange as exchange_report  # noqa: F401
from qbert_opt.reports import plan as plan_report  # noqa: F401
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.scoring import diagnosis, sensitivity  # noqa: F401
from qbert_opt.spec.allocation import read_allocation
from qbert_opt.spec.scores import read_scores
from qbert_opt.workflows import export, export_config, quantize, rescore, solve  # noqa: F401

typer.main.get_command = functools.cache(typer.main.get_command)  # so that the verbs are built before a fork

SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
SAID = {signal.SIGINT: (130, "qbert-opt: interrupted; "), signal.SIGTERM: (143, "qbert-opt: terminated; ")}
SAMPLES = ["--calibration-samples", "20", "--scoring-samples", "20"]
COMMANDS = {
    "sensitivity": ["sensitivity", "--model", "model", "--data", "data.tsv", *SAMPLES, "-o", "s.json"],
    "diagnose": ["diagnose", "--model", "model", "--data", "data.tsv", "--samples", "8", "-o", "d.json"],
    "pareto": ["pareto", "--scores", "scores.json", "--points", "20", "-o", "f.json"],
    "solve": ["solve", "--scores", "scores.json", "--budget", "4bit", "-o", "p.json"],
    "quantize": ["quantize", "plan.json", "--model", "model", "--data", "data.tsv", "-o", "q"],
    "quantize --sequential": [
        "quantize", "plan.json", "--model", "model", "--data", "data.tsv", "--sequential", "-o", "qs",
    ],
    "export": ["export", "quantized", "--engine", "onnxruntime", "--tolerance", "0.5", "-o", "e"],
    "export openvino": ["export", "quantized", "--engine", "openvino", "--tolerance", "0.5", "-o", "eo"],
    "fine-tune": ["fine-tune", "--encoder", "model", "--data", "data.tsv", "--epochs", "1", "-o", "t"],
    "export-config": ["export-config", "plan.json", "--to", "gptqmodel", "--scores", "scores.json", "-o", "c.json"],
    "import-config": ["import-config", "config.json", "--from", "gptqmodel", "--scores", "scores.json", "-o", "i.json"],
    "report": ["report", "plan.json", "--scores", "scores.json", "-o", "r.html"],
}  # fmt: skip
WITHOUT_PROGRESS = ("solve", "export-config", "import-config", "report")
READERS = {
    "sensitivity": read_scores,
    "diagnose": lambda path: json.loads(path.read_text()),
    "pareto": lambda path: TradeOff.model_validate_json(path.read_text()),
    "solve": read_allocation,
    "quantize": load_quantized,
    "quantize --sequential": load_quantized,
    "export": read_record,
    "export openvino": read_record,
    "fine-tune": load_model,
    "export-config": lambda path: json.loads(path.read_text()),
    "import-config": read_allocation,
    "report": lambda path: path.read_text().rstrip().rindex("</html>"),
}


def start(arguments):
    """Fork a process that runs the command line; returns its number once it has begun."""
    begun, begins = os.pipe()
    number = os.fork()
    if number:
        os.close(begins)
        os.read(begun, 1)
        os.close(begun)
        return number
    code = 1
    try:
        with Path("log").open("wb", buffering=0) as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        sys.argv = ["qbert-opt", *arguments]
        os.write(begins, b".")
        try:
            main.run()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def finished(number):
    """Wait for a process; returns its exit code, or the negative number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def whole(arguments):
    """Run a command to its end; returns the seconds it took."""
    begun = time.monotonic()
    if (code := finished(start(arguments))) != 0:
        raise SystemExit(f"{' '.join(arguments)}: exit code {code}: {Path('log').read_text()}")
    return time.monotonic() - begun


def prepare():
    """A model, data, scores, a plan, a quantized folder and a config, in the current folder."""
    torch.manual_seed(0)
    model = tiny_model("bert")
    model.save_pretrained("model")
    tokenizer().save_pretrained("model")
    generator = random.Random(0)
    texts = [" ".join(f"w{generator.randrange(59)}" for _ in range(generator.randint(3, 12))) for _ in range(60)]
    rows = [f"{text}\t{LABELS['classes'][i % 3]}" for i, text in enumerate(texts)]
    Path("data.tsv").write_text("\n".join(["text\tlabel", *rows]) + "\n")
    whole([*COMMANDS["sensitivity"][:-1], "scores.json"])
    whole([*COMMANDS["solve"][:-1], "plan.json"])
    whole([*COMMANDS["quantize"][:-1], "quantized"])
    whole([*COMMANDS["export-config"][:-1], "config.json"])


def remove(path):
    """Remove a file or a folder, if it is there."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def leftovers(target):
    """What lies beside an output and belongs to it: progress, locks, unfinished parts."""
    return sorted(p.name for p in Path().iterdir() if p.name.startswith((f".{target}.", f"{target}.")))


def faults_of(verb, number, code, target):
    """What is wrong after a signal, before the command is run again."""
    found = []
    said = Path("log").read_text(errors="replace")
    if "Traceback" in said:
        found.append(f"traceback: {said.strip().splitlines()[-1]}")
    if target.exists():
        try:
            READERS[verb](target)
        except Exception as error:
            found.append(f"{target} does not open: {error}")
    if number in SAID and code not in (0, -number):  # ended by itself, or by the signal when all was done
        expected, line = SAID[number]
        lines = [text for text in said.splitlines() if text.startswith("qbert-opt: ")]
        if code != expected or len(lines) != 1 or not lines[0].startswith(line):
            found.append(f"exit code {code}, said {lines}")
        progress = Path(f"{target}.partial")
        if progress.exists() and lines and f"finished work is kept in {progress}" not in lines[0]:
            found.append(f"{progress} is left and not named")
        if extra := [name for name in leftovers(target) if name != progress.name]:
            found.append(f"left {extra}")
    return found


def moments(verb, count, seed):
    """Send signals at moments spread over a verb's run; returns what came of it."""
    arguments = COMMANDS[verb] if verb in WITHOUT_PROGRESS else [*COMMANDS[verb], "-q"]
    target = Path(arguments[arguments.index("-o") + 1])
    whole(arguments)  # what is read for the first time takes longer
    remove(target)
    seconds = whole(arguments)
    generator, outcomes, faults = random.Random(f"{verb} {seed}"), Counter(), []
    for index in range(count):
        remove(target)
        number = SIGNALS[index % len(SIGNALS)]
        process = start(arguments)
        moment = seconds * (index + generator.random()) / count
        time.sleep(moment)
        os.kill(process, number)
        code = finished(process)
        where = f"{verb}: {number.name} after {moment:.3f} s of {seconds:.3f} s"
        faults += [f"{where}: {fault}" for fault in faults_of(verb, number, code, target)]
        left = "an output" if target.exists() else "progress" if Path(f"{target}.partial").exists() else "nothing"
        outcomes[f"{number.name}: {left}"] += 1
        remove(target)
        if (code := finished(start(arguments))) != 0:
            faults.append(f"{where}: run again: exit code {code}: {Path('log').read_text().strip()[-300:]}")
            continue
        READERS[verb](target)
        if left := leftovers(target):
            faults.append(f"{where}: run again: left {left}")
            for name in left:
                remove(Path(name))
    return {"moments": count, "run_s": round(seconds, 3), "left": dict(sorted(outcomes.items())), "faults": faults}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output")
    parser.add_argument("--moments", type=int, default=21, help="of each verb")
    parser.add_argument("--verbs", default=",".join(COMMANDS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    output = Path(options.output).absolute()
    torch.set_num_threads(1)
    typer.main.get_command(app.app)
    gc.freeze()  # a fork that collects garbage would copy every page of what was imported
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        prepare()
        results = {}
        for verb in options.verbs.split(","):
            results[verb] = moments(verb, options.moments, options.seed)
            print(verb, json.dumps(results[verb]), flush=True)
        os.chdir(output.parent)
    total = sum(result["moments"] for result in results.values())
    faults = sum(len(result["faults"]) for result in results.values())
    record = {
        "commit": code_commit(),
        "command": " ".join(["python -m", __spec__.name, *sys.argv[1:]]),
    }
    output.write_text(json.dumps({**record, "moments": total, "faults": faults, "verbs": results}, indent=1) + "\n")
    print(f"{total} moments, {faults} faults")
