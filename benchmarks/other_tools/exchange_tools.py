"""Does each tool really load what `export-config` writes for it, and store what we said that it would?

    python -m benchmarks.other_tools.exchange_tools TOOL                       # in a Python that has it; prints JSON
    python -m benchmarks.other_tools.exchange_tools --collect TOOL=PYTHON ...  # writes exchange_results.json

Each check gives the config to the tool's own loader, lets it quantize a small random BERT, and compares bits and groups
of every matrix with what our exporter says. Tools live in environments of their own: their pins exclude each other.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.other_tools import exchange_checks
from benchmarks.other_tools.exchange_checks import HEADS, HIDDEN, LAYERS, PARTS
from qbert_opt.configs.offers import Offer
from qbert_opt.configs.tool import config_tool
from qbert_opt.costs.operations import Storage, Workload
from qbert_opt.data.reference import reference_scores
from qbert_opt.errors import QbertOptError
from qbert_opt.planning.assembly import Proof, assemble
from qbert_opt.planning.planner import allocate
from qbert_opt.runtime.provenance import code_commit
from qbert_opt.spec.grids import default_grid
from qbert_opt.spec.groupings import num_groups
from qbert_opt.spec.limits import Limits
from qbert_opt.spec.profiles import MatrixSpec, ModelProfile
from qbert_opt.spec.score_parts import Provenance
from qbert_opt.spec.scores import ScoreTable
from qbert_opt.workflows.export_config import export_cost, export_plan
from qbert_opt.workflows.refit import refit

PACKAGES = {
    "modelopt": "nvidia-modelopt",
    "autoround": "auto-round",
    "torchao": "torchao",
    "gptqmodel": "gptqmodel",
    "compressed-tensors": "compressed-tensors",
    "llm-compressor": "llmcompressor",
    "nncf": "nncf",
    "coremltools": "coremltools",
    "llama-cpp": "gguf",
    "ai-edge-quantizer": "ai-edge-quantizer",
}
NOT_LOADED = {
    "hawq": "no package of it is published; its reader takes this dictionary of module names",
    "tidl": "its compiler is not published as a package; its options are this dictionary",
}


def synthetic_plan(seed=0):
    """A plan of a two-layer BERT that uses every default choice somewhere."""
    matrices = tuple(
        MatrixSpec(module=f"bert.encoder.layer.{block}.{name}", kind=kind, block=block, rows=rows, columns=columns)
        for block in range(LAYERS)
        for kind, (name, rows, columns) in PARTS.items()
    )
    profile = ModelProfile(
        name="random-bert", architecture="BertForSequenceClassification", sha256="0" * 64, num_blocks=LAYERS,
        hidden=HIDDEN, heads=HEADS, matrices=matrices, tables=(), other_elements=0,
        head=({"module": "bert.pooler.dense", "rows": HIDDEN, "columns": HIDDEN},
              {"module": "classifier", "rows": 3, "columns": HIDDEN}),
    )  # fmt: skip
    grid = default_grid("gptq")
    zeros = tuple((1.0,) * len(grid) for _ in matrices)
    scores = ScoreTable(
        metric="none", method="gptq", loss_unit="none", contains="nothing", profile=profile,
        choices=tuple(c.name for c in grid), value=zeros, std_error=zeros, weight_error=zeros,
        provenance=Provenance(data="none", data_sha256="", num_scored=0, num_calibration=0, mean_tokens=0.0,
                              mean_confidence=0.0, scored_accuracy=None, seed=seed, commit="", version="", date=""),
    )  # fmt: skip
    generator = np.random.default_rng(seed)
    order = [generator.permutation(len(grid)) for _ in range(3)]
    picks = np.concatenate(order)[: len(matrices)]
    storage = {m.module: Storage(grid[j]) for m, j in zip(matrices, picks, strict=True)}
    return assemble(scores, storage, Proof("unproven", "synthetic"), None, Workload())


def run_check(tool: str) -> dict[str, object]:
    """Export, load, compare; what a tool did otherwise than our exporter says is listed."""
    exporter = "compressed-tensors" if tool == "llm-compressor" else tool
    suffix = ".yaml" if tool == "llm-compressor" else config_tool(exporter).SUFFIXES[0]
    plan = synthetic_plan()
    export = export_plan(plan, config_tool(exporter), suffix)
    offers: dict[str, Offer] = {item.matrix.module: item.offer for item in export.carried}
    with tempfile.TemporaryDirectory() as folder:
        found = getattr(exchange_checks, f"check_{tool.replace('-', '_')}")(export.text, offers, Path(folder))
    expected = {
        item.matrix.module: (
            item.offer.bits,
            num_groups(item.offer.grouping, item.matrix.rows, item.matrix.columns, heads=HEADS),
        )
        for item in export.carried
    }
    wrong = {m: {"said": expected[m], "did": found[m]} for m in expected if tuple(found[m]) != expected[m]}
    return {
        "tool": tool,
        "package": PACKAGES[tool],
        "version": importlib.metadata.version(PACKAGES[tool]),
        "loaded": True,
        "matrices": len(expected),
        "as_said": len(expected) - len(wrong),
        "otherwise": wrong,
        "lost": dict(export.changes.most_common()),
    }


def price(exporter: str) -> dict[str, float | int | str]:
    """What the README's plan (bundled scores, 25 MB) loses in a tool: by its nearest formats, and solved again."""
    scores = reference_scores()
    plan = allocate(scores, Limits(encoder_bytes=25_000_000))
    tool = config_tool(exporter)
    export = export_plan(plan, tool, tool.SUFFIXES[0])
    found: dict[str, float | int | str] = {
        "planned_loss": plan.predicted_loss,
        "matrices_kept": sum(item.is_exact for item in export.carried),
        "nearest_loss": export_cost(export, plan, scores).carried_loss,
        "nearest_bytes": export.tool_bytes,
    }
    try:
        found["refit_loss"] = refit(plan, tool, scores, None, Workload()).predicted_loss
    except QbertOptError as error:
        found["refit"] = str(error)
    return found


def collect(pairs: list[str]) -> None:
    """Run each check in its Python and write the table."""
    rows = []
    for pair in pairs:
        tool, python = pair.split("=")
        done = subprocess.run([python, "-m", __spec__.name, tool], capture_output=True, text=True, check=False)
        try:
            rows.append(json.loads(done.stdout.splitlines()[-1]))
        except (IndexError, json.JSONDecodeError):
            reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
            rows.append({"tool": tool, "package": PACKAGES[tool], "loaded": False, "reason": reason[:300]})
        print(json.dumps({k: v for k, v in rows[-1].items() if k != "lost"}))
    rows += [{"tool": tool, "loaded": False, "reason": reason} for tool, reason in NOT_LOADED.items()]
    for row in rows:
        row["readme_plan"] = price("compressed-tensors" if row["tool"] == "llm-compressor" else row["tool"])
    table = {"command": "python -m benchmarks.other_tools.exchange_tools --collect TOOL=PYTHON ...", "rows": rows}
    path = Path(__file__).parent / "exchange_results.json"
    path.write_text(json.dumps(table | {"commit": code_commit()}, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tool", nargs="?", choices=PACKAGES)
    parser.add_argument("--collect", nargs="+", metavar="TOOL=PYTHON")
    options = parser.parse_args()
    if options.collect:
        collect(options.collect)
    elif options.tool:
        print(json.dumps(run_check(options.tool)))
    else:
        parser.error("name a tool, or --collect TOOL=PYTHON ...")
