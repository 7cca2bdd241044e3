"""The rows of `engine_rivals.py`: which files each opens, how, and what its process does when it is asked."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

SEQ_LEN, REAL, RUNS, WARM_UP = 128, 16, 4, 3
FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}
# row: engine, folder, how it is opened: settings of OpenVINO, or our name for rounding inputs
ROWS = {
    "openvino float32": ("openvino", "openvino-float", FLOAT32),
    "openvino as it comes": ("openvino", "openvino-float", {}),
    "openvino NNCF int8": ("openvino", "nncf", FLOAT32),
    "openvino NNCF int8 as it comes": ("openvino", "nncf", {}),
    "openvino ours, 8 bits": ("openvino", "openvino-8", None),
    "openvino ours, 4.6 bits": ("openvino", "openvino-4.6", None),
    "openvino ours, 4.6 bits, inputs left to it": ("openvino", "openvino-4.6-own", None),
    "openvino optimize, 8 bits": ("openvino", "openvino-optimize-8", None),
    "openvino optimize, 4.6 bits": ("openvino", "openvino-optimize-4.6", None),
    "onnxruntime float32": ("onnxruntime", "onnxruntime-float", {}),
    "onnxruntime dynamic int8": ("onnxruntime", "dynamic", {}),
    "onnxruntime ours, 8 bits": ("onnxruntime", "onnxruntime-8", None),
    "onnxruntime ours, 4.6 bits": ("onnxruntime", "onnxruntime-4.6", None),
    "onnxruntime ours, 4.6 bits, inputs left to it": ("onnxruntime", "onnxruntime-4.6-own", None),
    "onnxruntime optimize, 8 bits": ("onnxruntime", "onnxruntime-optimize-8", None),
    "onnxruntime optimize, 4.6 bits": ("onnxruntime", "onnxruntime-optimize-4.6", None),
}
BASE = {"openvino": "openvino float32", "onnxruntime": "onnxruntime float32"}
RIVAL = {"openvino": "openvino NNCF int8", "onnxruntime": "onnxruntime dynamic int8"}


def model_files(folder: Path) -> list[Path]:
    """The engine's own files in a folder, without record and tokenizer."""
    return [file for file in folder.rglob("*") if file.suffix in (".onnx", ".xml", ".bin")]


def opened(row: str, work: Path) -> object:
    """A function from token arrays to logits."""
    engine, folder, settings = ROWS[row]
    if settings is None:
        from qbert_opt.engines.record import read_record
        from qbert_opt.engines.session import engine as engine_named

        session = engine_named(engine).open_model(work / folder, 1, read_record(work / folder).activations)
        return lambda feed: session.run(feed)["logits"]
    if engine == "openvino":
        import openvino as ov

        from qbert_opt.formats.writers.openvino_ir import graph_file

        compiled = ov.Core().compile_model(
            graph_file(work / folder), "CPU", settings | {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
        )
        request = compiled.create_infer_request()
        return lambda feed: next(iter(request.infer(feed).values())).copy()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    (file,) = model_files(work / folder)
    session = onnxruntime.InferenceSession(str(file), options, ["CPUExecutionProvider"])
    return lambda feed: session.run(None, feed)[0]


def serve(row: str, work: Path, feeds: list[dict[str, np.ndarray]], pipe: object) -> None:
    """Answer `time` with processor seconds at 128 tokens and at real lengths, `all` with logits and memory."""
    import onnxruntime  # noqa: F401  imported before memory is read, in every process
    import openvino  # noqa: F401

    from qbert_opt.engines.child_process import private_bytes

    floor = private_bytes()
    run = opened(row, work)
    ids = np.random.default_rng(0).integers(5, 30, (1, SEQ_LEN), dtype=np.int64)
    long = {name: np.ones_like(ids) if "mask" in name else np.zeros_like(ids) for name in feeds[0]} | {"input_ids": ids}
    for _ in range(WARM_UP):
        for feed in (long, *feeds[:REAL]):
            run(feed)
    memory = private_bytes() - floor
    pipe.send("ready")
    while (what := pipe.recv()) is not None:
        if what == "all":
            pipe.send((np.concatenate([run(feed) for feed in feeds]), memory))
            continue
        started = time.process_time()
        for _ in range(RUNS):
            run(long)
        middle = time.process_time()
        for feed in feeds[:REAL]:
            run(feed)
        pipe.send(((middle - started) / RUNS, (time.process_time() - middle) / REAL))
