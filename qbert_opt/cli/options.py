"""Options that several verbs share, written once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import hwmodels

    from ..spec.scores import ScoreTable

Model = Annotated[str, typer.Option("--model", "-m", help="Folder of a fine-tuned model, or a hub model owner/name.")]
Data = Annotated[
    str, typer.Option("--data", help="Texts: .tsv, .csv, .jsonl, .parquet, a folder of splits, or e.g. snips/dev.")
]
TextColumn = Annotated[
    list[str] | None, typer.Option("--text-column", help="Column of the text; twice for sentence pairs.")
]
LabelColumn = Annotated[str | None, typer.Option("--label-column", help="Column of the label.")]
Split = Annotated[str | None, typer.Option("--split", help="Which split of a folder, for example test.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of every random draw.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
Method = Annotated[str, typer.Option("--method", help="Quantizer that will write the model; see 'qbert-opt choices'.")]
Metric = Annotated[str, typer.Option("--metric", help="Estimator of the loss; see 'qbert-opt metrics'.")]
Bits = Annotated[str, typer.Option("--bits", help="Bit widths to choose from.")]
Groupings = Annotated[str, typer.Option("--groupings", help="Groupings to choose from.")]
Forms = Annotated[
    str | None,
    typer.Option("--forms", help="What ranges store: offset, symmetric, signed, zero-point, codebook."),
]
TableBits = Annotated[
    str, typer.Option("--table-bits", help="Bit widths of embedding tables; none keeps them at 8 bits, not scored.")
]
ActivationBits = Annotated[str, typer.Option("--activation-bits", help="Widths of rounded inputs: 8, 16 or 8,16.")]
CalibrationSamples = Annotated[int, typer.Option("--calibration-samples", min=1, help="Texts that fit the quantizer.")]
ScoringSamples = Annotated[
    int, typer.Option("--scoring-samples", min=2, help="Texts that score; never the same as those that fit.")
]
MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", min=4, help="Cut longer texts here; by default the model's window.")
]
TorchDevice = Annotated[
    str,
    typer.Option("--torch-device", help="Where torch computes: auto (a GPU if there is one), cpu, cuda, cuda:1."),
]

TestData = Annotated[
    str | None, typer.Option("--test-data", help="Held-out text to check on; by default what is left of --data.")
]
EngineActivations = Annotated[
    str | None,
    typer.Option(
        "--activations",
        help="How the engine rounds inputs: planned, int8, int8-coarse or float32; by default what fits.",
    ),
]

LIMITS, HARDWARE, CONSTRAINTS = "Limits", "Device and workload", "Constraints on the choices"
SCORING, SHORTLIST, SOLVER, OUTPUT = "Scores", "Several plans, measuring", "Solver", "Output"


def _text(panel: str, *names: str, help: str) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel)


Device = Annotated[
    str | None, _text(HARDWARE, "--device", "-d", help="Target hardware: a YAML file or the name of a bundled device.")
]
SeqLen = Annotated[int, typer.Option("--seq-len", min=1, help="Tokens per sentence.", rich_help_panel=HARDWARE)]
BatchSize = Annotated[
    int, typer.Option("--batch-size", min=1, help="Sentences per inference.", rich_help_panel=HARDWARE)
]
Rate = Annotated[float | None, typer.Option("--rate", min=0.0, help="Inferences per second.", rich_help_panel=HARDWARE)]

Budget = Annotated[
    str | None, _text(LIMITS, "--budget", "-b", help="Size of the encoder's matrices: 25MB, 23.8MiB, 2.5bit or 13x.")
]
TotalBudget = Annotated[
    str | None, _text(LIMITS, "--total-budget", help="Size of the whole stored model, in the same units.")
]
MaxLatency = Annotated[str | None, _text(LIMITS, "--max-latency", help="Latency of one inference, e.g. 20ms.")]
MaxMemory = Annotated[str | None, _text(LIMITS, "--max-memory", help="Peak memory, weights and activations together.")]
MaxDramBytes = Annotated[str | None, _text(LIMITS, "--max-dram-bytes", help="DRAM traffic per inference, e.g. 30MB.")]
MaxBandwidth = Annotated[str | None, _text(LIMITS, "--max-bandwidth", help="DRAM bandwidth at --rate, e.g. 2GB/s.")]
MaxEnergy = Annotated[str | None, _text(LIMITS, "--max-energy", help="Energy per inference, e.g. 100mJ.")]
MaxScratchpad = Annotated[str | None, _text(LIMITS, "--max-scratchpad", help="On-chip memory for resident weights.")]
MaxBops = Annotated[float | None, _text(LIMITS, "--max-bops", help="Bit operations per inference.")]
MaxAccuracyDrop = Annotated[
    str | None, _text(LIMITS, "--max-accuracy-drop", help="Accuracy that may be lost, proven on held-out text: 0.5pt.")
]
MaxFlips = Annotated[
    str | None, _text(LIMITS, "--max-flips", help="Share of answers that may change, proven on held-out text: 1%.")
]
Confidence = Annotated[str, _text(LIMITS, "--confidence", help="Confidence of these proofs, one-sided.")]

AllowedBits = Annotated[str | None, _text(CONSTRAINTS, "--bits", help="Bit widths that matrices may take, e.g. 2,4,8.")]
AllowedGroupings = Annotated[
    str | None, _text(CONSTRAINTS, "--groupings", help="Groupings that matrices may take, e.g. rows:each.")
]
AllowedTableBits = Annotated[
    str | None, _text(CONSTRAINTS, "--table-bits", help="Bit widths that embedding tables may take.")
]
AllowedActivationBits = Annotated[
    str | None,
    _text(
        CONSTRAINTS, "--activation-bits", help="Widths of rounded inputs: 8, 16, 8,16 or none; by default the device's."
    ),
]
ActivationRanges = Annotated[
    str | None, _text(CONSTRAINTS, "--activation-ranges", help="Range of rounded inputs: token (dynamic) or tensor.")
]
TargetEngine = Annotated[
    str | None, _text(CONSTRAINTS, "--engine", help="Take only choices that this engine can run, e.g. onnxruntime.")
]
Pins = Annotated[
    list[str] | None,
    _text(CONSTRAINTS, "--pin", help="NAME=BITS: fix the bit width of matrices whose name contains NAME. Repeatable."),
]
Excluded = Annotated[
    list[str] | None,
    _text(CONSTRAINTS, "--exclude", help="NAME: keep matching matrices out of the search, at 8 bits per row."),
]
Ties = Annotated[
    list[str] | None,
    _text(CONSTRAINTS, "--tie", help="NAME: matching matrices take the same choice; qkv ties them in each layer."),
]
MaxFormats = Annotated[
    int | None,
    typer.Option(
        "--max-formats", min=1, help="Number of different formats (kernels) at most.", rich_help_panel=CONSTRAINTS
    ),
]
MaxLoss = Annotated[
    float | None, _text(CONSTRAINTS, "--max-loss", help="Largest predicted loss; minimizes --least under it.")
]
Least = Annotated[
    str | None,
    _text(CONSTRAINTS, "--least", help="With --max-loss: bytes, total-bytes, latency, energy, dram or bops."),
]

OptionalScores = Annotated[
    str | None, _text(SCORING, "--scores", "-s", help="Table of scores; by default the bundled reference.")
]
OptionalModel = Annotated[
    str | None, _text(SCORING, "--model", "-m", help="Model folder to score first (needs --data).")
]
OptionalData = Annotated[str | None, _text(SCORING, "--data", help="Calibration text for --model.")]

TopK = Annotated[
    int | None,
    typer.Option(
        "--top-k",
        min=1,
        help="Number of diverse plans to return; -o p.json writes p.2.json and so on.",
        rich_help_panel=SHORTLIST,
    ),
]
Within = Annotated[
    str | None, _text(SHORTLIST, "--within", help="With --top-k: largest distance from the best plan, e.g. 5%.")
]
Apart = Annotated[
    int | None,
    typer.Option(
        "--apart",
        min=1,
        help="With --top-k: matrices in which two plans differ at least; by default a tenth.",
        rich_help_panel=SHORTLIST,
    ),
]
MeasureEngine = Annotated[
    str | None, _text(SHORTLIST, "--measure", help="Time the shortlist in this engine, here (needs --model).")
]
RefineMeasurements = Annotated[
    int | None,
    typer.Option(
        "--refine",
        min=1,
        help="Local search on measured loss, at most N evaluations (needs --model, --data).",
        rich_help_panel=SHORTLIST,
    ),
]
VerifyTexts = Annotated[
    str | None,
    _text(
        SHORTLIST,
        "--verify",
        help="Held-out text to measure the plan and uniform plans on (needs --model, --data).",
    ),
]
Recipe = Annotated[
    str | None,
    _text(SOLVER, "--recipe", help="Use a published rule instead of solving: qbert-2/3, qbert-2/4, uniform:CHOICE."),
]
SolverName = Annotated[str, _text(SOLVER, "--solver", help="Solver to use; see 'qbert-opt solvers'.")]
TimeLimit = Annotated[str | None, _text(SOLVER, "--time-limit", help="Time limit of the solver, e.g. 60s.")]

OptionalOutput = Annotated[str | None, _text(OUTPUT, "--output", "-o", help="Write allocation.json here.")]
AsJson = Annotated[bool, _text(OUTPUT, "--json", help="Print JSON.")]
Explain = Annotated[bool, _text(OUTPUT, "--explain", help="Explain the choice of each matrix.")]
Plot = Annotated[str | None, _text(OUTPUT, "--plot", help="Draw the plan to this PNG or SVG.")]
DEFAULT_BITS = "2,3,4,8"
DEFAULT_TABLE_BITS = "2,3,4,6,8"
DEFAULT_GROUPINGS = "rows:1,rows:heads,rows:128,rows:each,columns:32,columns:64,columns:128"


def load_target(device: str | None) -> hwmodels.Device | None:
    """Read the device that `--device` names, if it names one."""
    return None if device is None else load_device(device)


def load_device(device: str) -> hwmodels.Device:
    """Read a device: a wrong file is a bad input file, an unknown name a usage error."""
    from pathlib import Path

    from ..costs.devices import load_device as load
    from ..errors import DeviceError, UsageError

    try:
        return load(device)
    except DeviceError as error:
        if Path(device).is_file():
            raise
        raise UsageError(f"--device {error}") from None


def load_scores(scores: str) -> ScoreTable:
    """Read the table that `--scores` names; `reference` is the bundled one."""
    from ..data.reference import reference_scores
    from ..spec.scores import read_scores

    return reference_scores() if scores == "reference" else read_scores(scores)


def read_or_score(
    scores: str | None,
    model: str | None,
    data: str | None,
    *,
    metric: str,
    method: str,
    samples: tuple[int, int],
    seed: int,
    activation_bits: str | None,
    max_tokens: int | None,
    quiet: bool,
) -> ScoreTable:
    """Read the table of `--scores`, score `--model`, or take the bundled reference.

    Raises:
        UsageError: both, or a model without calibration text.
    """
    from ..errors import UsageError

    if scores is not None and model is not None:
        raise UsageError("--scores and --model: give one of them; --scores already names its model.")
    if model is None and max_tokens is not None:
        raise UsageError("--max-tokens: belongs to --model; a table of scores records where its texts were cut.")
    if model is None:
        return load_scores(scores or "reference")
    if data is None:
        raise UsageError("--model: needs --data, calibration text to score it on.")
    from ..quantization.calibration import CalibrationPlan
    from ..spec.activations import parse_activation_bits
    from ..workflows.score import score_model
    from .progress import progress

    with progress(f"{metric} scores", quiet=quiet) as tell:
        return score_model(
            model,
            data,
            metric=metric,
            method=method,
            calibration=CalibrationPlan(*samples, seed),
            activation_bits=parse_activation_bits(activation_bits or "none"),
            max_tokens=max_tokens,
            progress=tell,
        )
