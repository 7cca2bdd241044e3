"""How large, how fast and how right is the C encoder of an integer program, beside torch and OpenVINO?

    python -m benchmarks.integer.integer_artifacts prepare MODEL CALIBRATION WORK  # 8 bits everywhere, inputs planned
    python -m benchmarks.integer.integer_artifacts build CALIBRATION WORK  # the program, its C and ONNX, by gcc
    python -m benchmarks.integer.integer_artifacts measure MODEL TEST WORK OUT.json

`prepare` quantizes every matrix with 8 bits per row and its inputs with 8 bits in static ranges. `build` compiles the C
at -O2 and at -O3 -march=native. `measure` runs every text cut or padded to 32 tokens, one at a time. Speed is processor
time on one thread, the median over rounds of a mean over the texts; each round asks every engine in turn. `different`
counts texts whose integers differ from the reference's.
"""

import argparse
import ctypes
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.records import machine
from qbert_opt.checkpoint.reader import load_quantized, read_matrices
from qbert_opt.data.texts import read_texts
from qbert_opt.engines.session import engine
from qbert_opt.formats.traced_model import traceable
from qbert_opt.integer.compiler import compile_model
from qbert_opt.integer.emitter import Emitted
from qbert_opt.integer.emitters import c, onnx
from qbert_opt.integer.families import encoder_of
from qbert_opt.integer.folder import read_program, write_program
from qbert_opt.integer.reference import Reference
from qbert_opt.models.loading import load_model, tokenized
from qbert_opt.models.structure import profile_model
from qbert_opt.planning.recipes import given_allocation
from qbert_opt.quantization.activation_ranges import calibrated_ranges, shared_inputs
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.spec.choices import choice
from qbert_opt.spec.planned import PlannedActivation
from qbert_opt.workflows.export import export_model
from qbert_opt.workflows.quantize import quantize_model

TOKENS, MAX_TOKENS = 32, 128
TEXTS, CALIBRATION, ROUNDS = 24, 256, 7
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror")
BUILDS = {"C -O2": ("-O2",), "C -O3 -march=native": ("-O3", "-march=native")}
CHOICE = "8bit/rows:each/rtn/symmetric"


def prepare(model: Path, calibration: Path, work: Path) -> None:
    """Write the quantized folder and its export to OpenVINO."""
    loaded, texts = load_model(str(model)), read_texts(str(calibration)).take(range(CALIBRATION))
    profile = profile_model(loaded)
    modules = [matrix.module for matrix in profile.matrices]
    plan = given_allocation(profile, {module: choice(CHOICE) for module in modules})
    batches = tokenized(loaded, texts.texts, batch_size=16)
    ranges = calibrated_ranges(loaded.model, batches, modules)
    planned = tuple(
        PlannedActivation(modules=group, bits=8, scheme="tensor", range="minmax", low=low, high=high,
                          predicted_loss=0.0, std_error=0.0)
        for group in shared_inputs(loaded.model, batches[0], modules)
        for low, high in [ranges[group[0]]["minmax"](8)]
    )  # fmt: skip
    quantize_model(loaded, plan.model_copy(update={"activations": planned}), texts, work / "quantized")
    export_model(work / "quantized", "openvino", work / "openvino", texts=texts, activations="planned")


def questions(loaded, texts, names):
    """Texts as single samples of exactly `TOKENS` tokens."""
    tokenizer = loaded.tokenizer
    for text in texts:
        encoded = tokenizer(*text, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="np")
        ids = encoded["input_ids"].astype(np.int64)
        filled = {"input_ids": ids, "attention_mask": encoded["attention_mask"].astype(np.int64)}
        yield {name: filled.get(name, np.zeros_like(ids)) for name in names}


def build(calibration: Path, work: Path) -> None:
    """Write the program and both artifacts, and compile the C."""
    loaded, plan = load_quantized(work / "quantized")
    batches = tokenized(loaded, read_texts(str(calibration)).texts[:CALIBRATION], batch_size=16)
    stored = read_matrices(work / "quantized", plan)
    names = traceable(loaded).inputs
    program = compile_model(encoder_of(loaded), stored, plan.activations, batches, names).program
    artifact = work / "artifact"
    artifact.mkdir(exist_ok=True)
    write_program(program, artifact)
    emitted = c.emit(program, artifact, MAX_TOKENS)
    onnx.emit(program, artifact, MAX_TOKENS)
    (artifact / "emitted.json").write_text(emitted.model_dump_json())
    compile_c(artifact, emitted)


def compile_c(work: Path, emitted: Emitted) -> None:
    """Make the shared libraries."""
    sources = [name for name in emitted.files if name.startswith("constants_") and name.endswith(".c")]
    for name in sources:
        subprocess.run(["gcc", *STRICT, "-O2", "-fPIC", "-c", name], cwd=work, check=True)
    objects = [name.replace(".c", ".o") for name in sources]
    for index, flags in enumerate(BUILDS.values()):
        own = f"encoder_{index}.o"
        subprocess.run(["gcc", *STRICT, *flags, "-fPIC", "-c", "encoder.c", "-o", own], cwd=work, check=True)
        subprocess.run(["gcc", "-shared", own, *objects, "-o", f"encoder_{index}.so"], cwd=work, check=True)


def code_bytes(work: Path, emitted: Emitted) -> dict[str, int]:
    """Bytes of machine code by build; the static memory must be what the emitter states."""
    found = {}
    for index, build in enumerate(BUILDS):
        own = f"encoder_{index}.o"
        sizes = subprocess.run(["size", own], cwd=work, check=True, capture_output=True, text=True).stdout
        text, data, bss = map(int, sizes.splitlines()[1].split()[:3])
        if data + bss != emitted.ram_bytes:
            raise SystemExit(f"static memory is {data + bss} bytes, not {emitted.ram_bytes}")
        found[build] = text
    return found


def c_runner(path: Path, program):
    """A function from inputs to the integers of the answer."""
    encode = ctypes.CDLL(str(path.resolve())).encode
    [answer] = {output.value for output in program.outputs}
    numbers = np.zeros(program.values[answer].shape[1:], np.int32)

    def run(inputs):
        arrays = [
            np.ascontiguousarray(inputs[value.name][0], np.uint8 if value.name == "attention_mask" else np.int32)
            for value in program.inputs
        ]
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in arrays]
        if encode(*pointers, TOKENS, ctypes.c_void_p(numbers.ctypes.data)) != 0:
            raise SystemExit("the encoder refused a text")
        return numbers.copy()

    return run


def measure(model: Path, test: Path, work: Path, out: Path) -> None:
    """Compare, time, and write the figures."""
    import onnxruntime

    torch.set_num_threads(1)
    artifact, original = work / "artifact", load_model(str(model))
    program = read_program(artifact)
    names = [value.name for value in program.inputs]
    emitted = Emitted.model_validate_json((artifact / "emitted.json").read_text())
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(artifact / onnx.FILE), settings, ["CPUExecutionProvider"])
    openvino = engine("openvino").open_model(work / "openvino", 1, "planned")
    integers = {name: c_runner(artifact / f"encoder_{index}.so", program) for index, name in enumerate(BUILDS)}
    integers["ONNX Runtime, integer graph"] = lambda inputs: session.run(None, inputs)[0][0]

    def in_torch(inputs):
        with torch.inference_mode():
            return original.model(**{name: torch.from_numpy(array) for name, array in inputs.items()})

    runners = {**integers, "torch float32": in_torch, "OpenVINO, the same plan": openvino.run}
    asked = list(questions(original, read_texts(str(test)).texts[:TEXTS], names))
    reference = Reference(program)
    [answer] = {output.value for output in program.outputs}
    wanted = [reference.run(inputs)[answer][0] for inputs in asked]
    different = {
        name: sum(not np.array_equal(run(inputs), right) for inputs, right in zip(asked, wanted, strict=True))
        for name, run in integers.items()
    }
    times: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(ROUNDS):
        for name, run in runners.items():
            run(asked[0])
            started = time.process_time()
            for inputs in asked:
                run(inputs)
            times[name].append(1e3 * (time.process_time() - started) / len(asked))
    result = {
        "command": f"python -m {__spec__.name} {' '.join(Path(word).name for word in sys.argv[1:])}",
        "commit": code_commit(),
        "machine": f"{machine()}, torch {torch.__version__}, "
        f"onnxruntime {onnxruntime.__version__}, {compiler()}",
        "plan": CHOICE, "texts": len(asked), "tokens": TOKENS, "rounds": ROUNDS, "max_tokens": MAX_TOKENS,
        "operations": len(program.operations), "constant_bytes": emitted.constant_bytes,
        "table_bytes": emitted.table_bytes, "ram_bytes": emitted.ram_bytes,
        "ram_bytes_by_max_tokens": {n: c.planned_memory(program, n).total_bytes for n in (32, 64, 128, 256, 512)},
        "code_bytes": code_bytes(artifact, emitted),
        "onnx_bytes": (artifact / onnx.FILE).stat().st_size,
        "different": different,
        "cpu_ms_per_text": {name: round(float(np.median(values)), 2) for name, values in times.items()},
        "cpu_ms_range": {name: [round(min(values), 2), round(max(values), 2)] for name, values in times.items()},
    }  # fmt: skip
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def compiler() -> str:
    """First line of what gcc says of itself."""
    said = subprocess.run(["gcc", "--version"], check=True, capture_output=True, text=True).stdout
    return said.splitlines()[0]


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    for step, function, words in (("prepare", prepare, ("model", "calibration", "work")),
                                  ("build", build, ("calibration", "work")),
                                  ("measure", measure, ("model", "test", "work", "out"))):  # fmt: skip
        own = steps.add_parser(step)
        own.set_defaults(run=function)
        for word in words:
            own.add_argument(word, type=Path)
    options = vars(parser.parse_args())
    options.pop("step")
    options.pop("run")(**options)


if __name__ == "__main__":
    main()
