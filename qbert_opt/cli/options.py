"""Options that several verbs share, written once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import hwmodels

    from ..spec.scores import ScoreTable

Model = Annotated[str, typer.Option("--model", "-m", help="Folder of a fine-tuned model, or a hub model owner/name.")]
Data = Annotated[
    str,
    typer.Option("--data", help="Texts: a .tsv, .csv, .jsonl or .parquet file, a folder of splits, or e.g. snips/dev."),
]
TextColumn = Annotated[
    list[str] | None, typer.Option("--text-column", help="Column with the text; give it twice for sentence pairs.")
]
LabelColumn = Annotated[str | None, typer.Option("--label-column", help="Column with the label.")]
Split = Annotated[str | None, typer.Option("--split", help="Split of a folder to read, for example test.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Random seed.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Do not print progress to stderr.")]
Method = Annotated[
    str, typer.Option("--method", help="Quantizer to score and to write the model with; see 'qbert-opt choices'.")
]
Metric = Annotated[
    str, typer.Option("--metric", help="Metric that predicts the loss of each choice; see 'qbert-opt metrics'.")
]
Bits = Annotated[str, typer.Option("--bits", help="Bit widths to choose from.")]
Groupings = Annotated[str, typer.Option("--groupings", help="Groupings to choose from.")]
Forms = Annotated[
    str | None,
    typer.Option("--forms", help="Forms to choose from: offset, symmetric, signed, zero-point, codebook."),
]
TableBits = Annotated[
    str, typer.Option("--table-bits", help="Bit widths of embedding tables to score; none keeps all tables at 8 bits.")
]
ActivationBits = Annotated[
    str, typer.Option("--activation-bits", help="Bit widths of quantized activations to score: 8, 16, 8,16 or none.")
]
CalibrationSamples = Annotated[
    int, typer.Option("--calibration-samples", min=1, help="Number of texts in the quantizer's calibration set.")
]
ScoringSamples = Annotated[
    int, typer.Option("--scoring-samples", min=2, help="Number of texts to score, disjoint from the calibration set.")
]
MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", min=4, help="Truncate texts to this many tokens; by default the model's maximum."),
]
TorchDevice = Annotated[
    str,
    typer.Option("--torch-device", help="PyTorch device: auto (a GPU if there is one), cpu, cuda, cuda:1."),
]

LIMITS, HARDWARE, CONSTRAINTS = "Limits", "Device and workload", "Constraints on the choices"
SCORING, SHORTLIST, SOLVER, OUTPUT = "Scores", "Shortlist and measurements", "Solver", "Output"


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
    str | None, _text(LIMITS, "--total-budget", help="Size of the whole stored model, as for --budget.")
]
MaxLatency = Annotated[str | None, _text(LIMITS, "--max-latency", help="Latency of one inference, e.g. 20ms.")]
MaxMemory = Annotated[str | None, _text(LIMITS, "--max-memory", help="Peak memory, weights and activations together.")]
MaxDramBytes = Annotated[str | None, _text(LIMITS, "--max-dram-bytes", help="DRAM traffic per inference, e.g. 30MB.")]
MaxBandwidth = Annotated[str | None, _text(LIMITS, "--max-bandwidth", help="DRAM bandwidth at --rate, e.g. 2GB/s.")]
MaxEnergy = Annotated[str | None, _text(LIMITS, "--max-energy", help="Energy per inference, e.g. 100mJ.")]
MaxScratchpad = Annotated[
    str | None, _text(LIMITS, "--max-scratchpad", help="On-chip memory that resident weights may use, e.g. 1MB.")
]
MaxBops = Annotated[float | None, _text(LIMITS, "--max-bops", help="Bit operations per inference.")]

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
        CONSTRAINTS,
        "--activation-bits",
        help="Bit widths of quantized activations: 8, 16, 8,16 or none; by default the device's.",
    ),
]
ActivationRanges = Annotated[
    str | None,
    _text(
        CONSTRAINTS, "--activation-ranges", help="Ranges of quantized activations: token (dynamic) or tensor (static)."
    ),
]
TargetEngine = Annotated[
    str | None, _text(CONSTRAINTS, "--engine", help="Use only choices that this engine can run, e.g. onnxruntime.")
]
Pins = Annotated[
    list[str] | None,
    _text(CONSTRAINTS, "--pin", help="NAME=BITS: fix the bit width of matrices whose name contains NAME. Repeatable."),
]
Excluded = Annotated[
    list[str] | None,
    _text(CONSTRAINTS, "--exclude", help="NAME: keep matching matrices at 8 bits, per-channel. Repeatable."),
]
Ties = Annotated[
    list[str] | None,
    _text(
        CONSTRAINTS,
        "--tie",
        help="NAME: give matching matrices the same choice; qkv ties query, key and value of each layer. Repeatable.",
    ),
]
MaxFormats = Annotated[
    int | None,
    typer.Option(
        "--max-formats", min=1, help="Largest number of different formats (kernels).", rich_help_panel=CONSTRAINTS
    ),
]
MaxLoss = Annotated[float | None, _text(CONSTRAINTS, "--max-loss", help="Largest predicted loss; needs --least.")]
Least = Annotated[
    str | None,
    _text(
        CONSTRAINTS,
        "--least",
        help="Resource to minimize under --max-loss: bytes, total-bytes, latency, energy, dram or bops.",
    ),
]

OptionalScores = Annotated[
    str | None, _text(SCORING, "--scores", "-s", help="Score table; by default the bundled reference.")
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
    str | None, _text(SHORTLIST, "--within", help="With --top-k: largest distance from the best plan's loss, e.g. 5%.")
]
Apart = Annotated[
    int | None,
    typer.Option(
        "--apart",
        min=1,
        help="With --top-k: least number of matrices in which two plans differ; by default a tenth.",
        rich_help_panel=SHORTLIST,
    ),
]
MeasureEngine = Annotated[
    str | None, _text(SHORTLIST, "--measure", help="Time each plan on this machine in this engine (needs --model).")
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
        help="Held-out text on which to measure the plan and uniform plans (needs --model, --data).",
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
    """Load the device of `--device`; None without the option."""
    return None if device is None else load_device(device)


def load_device(device: str) -> hwmodels.Device:
    """Load a device: an invalid file is a bad input file, an unknown name is a usage error."""
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
    """Read the score table of `--scores`; `reference` is the bundled one."""
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
    """Read the score table of `--scores`, score `--model`, or return the bundled reference.

    Raises:
        UsageError: both are given, or a model without calibration text.
    """
    from ..errors import UsageError

    if scores is not None and model is not None:
        raise UsageError("--scores and --model: give only one of them; the scores belong to a model already.")
    if model is None and max_tokens is not None:
        raise UsageError("--max-tokens: needs --model; a score table records how its own texts were truncated.")
    if model is None:
        return load_scores(scores or "reference")
    if data is None:
        raise UsageError("--model: needs --data, the text to score it on.")
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
