"""The options of `solve`, in the groups that its `--help` shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .decoder_options import CacheOptions

if TYPE_CHECKING:
    from hwmodels import Device

    from ..costs.workload import Workload
    from ..spec.profiles import ModelProfile

LIMITS, HARDWARE, CONSTRAINTS = "Limits", options.HARDWARE, "Constraints on the choices"
SCORING, SHORTLIST, SOLVER, OUTPUT = "Scores", "Several plans, measuring", "Solver", "Output"


def _text(panel: str, *names: str, help: str, min: int | None = None, max: int | None = None) -> Any:
    return typer.Option(*names, min=min, max=max, help=help, rich_help_panel=panel)


@dataclass(frozen=True, slots=True)
class LimitOptions:
    """Limits of a plan, each a quantity with its unit; None is no limit."""

    budget: Annotated[
        str | None,
        _text(LIMITS, "--budget", "-b", help="Size of the layers' matrices: 25MB, 23.8MiB, 2.5bit or 13x."),
    ] = None
    total_budget: Annotated[
        str | None, _text(LIMITS, "--total-budget", help="Size of the whole stored model, as for --budget.")
    ] = None
    max_latency: Annotated[
        str | None, _text(LIMITS, "--max-latency", help="Latency, e.g. 20ms; for a decoder, time to the first token.")
    ] = None
    max_memory: Annotated[
        str | None, _text(LIMITS, "--max-memory", help="Peak memory, weights and activations together.")
    ] = None
    max_dram_bytes: Annotated[
        str | None,
        _text(LIMITS, "--max-dram-bytes", help="DRAM traffic per inference, or per token of a decoder, e.g. 30MB."),
    ] = None
    max_bandwidth: Annotated[
        str | None, _text(LIMITS, "--max-bandwidth", help="DRAM bandwidth at --rate, e.g. 2GB/s.")
    ] = None
    max_energy: Annotated[
        str | None, _text(LIMITS, "--max-energy", help="Energy per inference, or per token of a decoder, e.g. 100mJ.")
    ] = None
    max_scratchpad: Annotated[
        str | None, _text(LIMITS, "--max-scratchpad", help="On-chip memory that resident weights may use, e.g. 1MB.")
    ] = None
    max_bops: Annotated[float | None, _text(LIMITS, "--max-bops", help="Bit operations per inference.")] = None
    min_tokens_per_s: Annotated[
        float | None,
        _text(LIMITS, "--min-tokens-per-s", help="Minimum tokens per second per sequence, full cache (decoders)."),
    ] = None


@dataclass(frozen=True, slots=True)
class HardwareOptions:
    """Target hardware, and the size of one inference."""

    device: Annotated[
        str | None,
        _text(HARDWARE, "--device", "-d", help="Target hardware: a YAML file or the name of a bundled device."),
    ] = None
    rate: Annotated[float | None, _text(HARDWARE, "--rate", min=0, help="Inferences per second.")] = None
    seq_len: Annotated[
        int | None,
        _text(
            HARDWARE,
            "--seq-len",
            min=1,
            help="Tokens per sentence, or per prompt for a decoder; by default 128, or the model's maximum if less.",
        ),
    ] = None
    batch_size: Annotated[
        int,
        _text(HARDWARE, "--batch-size", min=1, max=options.LARGEST_BATCH, help="Sentences per inference."),
    ] = 1

    def target(self) -> Device | None:
        """Read the device, if one is named."""
        return options.load_target(self.device)

    def workload(self, profile: ModelProfile, cache: CacheOptions) -> Workload:
        """Return the sentences and tokens of one inference.

        Args:
            profile: the model, which limits the number of tokens.
            cache: options of a decoder's cache.

        Raises:
            UsageError: more tokens than the model has positions for, or a cache for an encoder.
        """
        return cache.workload(profile, self.seq_len, self.batch_size)


@dataclass(frozen=True, slots=True)
class ScoringOptions:
    """Where scores come from: a file, or a model that is scored first."""

    scores: Annotated[
        str | None, _text(SCORING, "--scores", "-s", help="Score table; by default the bundled reference.")
    ] = None
    model: Annotated[
        str | None, _text(SCORING, "--model", "-m", help="Model folder to score first (needs --data).")
    ] = None
    data: Annotated[str | None, _text(SCORING, "--data", help="Calibration text for --model.")] = None
    metric: options.Metric = "directional"
    method: options.Method = "gptq"
    calibration_samples: options.CalibrationSamples = 256
    scoring_samples: options.ScoringSamples = 256
    scoring_pool: options.ScoringPool = 0
    until: Annotated[
        str | None,
        _text(
            SCORING,
            "--until",
            help="Score more of --data, or draw more of --scoring-pool, until the error of the predicted loss is this "
            "small, e.g. 20%.",
        ),
    ] = None
    max_tokens: options.MaxTokens = None
    seed: options.Seed = 0


@dataclass(frozen=True, slots=True)
class ConstraintOptions:
    """What a plan must satisfy besides its limits."""

    bits: Annotated[str | None, _text(CONSTRAINTS, "--bits", help="Bit widths that matrices may take, e.g. 2,4,8.")] = (
        None
    )
    groupings: Annotated[
        str | None, _text(CONSTRAINTS, "--groupings", help="Groupings that matrices may take, e.g. rows:each.")
    ] = None
    table_bits: Annotated[
        str | None,
        _text(CONSTRAINTS, "--table-bits", help="Bit widths that embedding tables may take; none keeps all at 8 bits."),
    ] = None
    activation_bits: Annotated[
        str | None,
        _text(
            CONSTRAINTS,
            "--activation-bits",
            help="Bit widths of quantized activations: 4, 8, 16, some of them (4,8) or none; by default the device's.",
        ),
    ] = None
    activation_ranges: Annotated[
        str | None,
        _text(
            CONSTRAINTS,
            "--activation-ranges",
            help="Ranges of quantized activations: token (dynamic) or tensor (static).",
        ),
    ] = None
    nonlinearity: options.PricedFunctions = None
    engine: Annotated[
        str | None,
        _text(CONSTRAINTS, "--engine", help="Use only what this engine runs; limits count the bytes of its file."),
    ] = None
    portable: Annotated[
        str | None,
        _text(
            CONSTRAINTS,
            "--portable",
            help="Engines that must all store the plan in the same codes: openvino,onnxruntime,qnn or all.",
        ),
    ] = None
    pins: Annotated[
        list[str] | None,
        _text(
            CONSTRAINTS,
            "--pin",
            help="NAME=BITS: fix the bit width of matrices whose name contains NAME. Repeatable.",
        ),
    ] = None
    excluded: Annotated[
        list[str] | None,
        _text(CONSTRAINTS, "--exclude", help="NAME: keep matching matrices at 8 bits, per-channel. Repeatable."),
    ] = None
    ties: Annotated[
        list[str] | None,
        _text(
            CONSTRAINTS,
            "--tie",
            help="NAME: give matching matrices one choice; qkv ties query, key and value of each layer. Repeatable.",
        ),
    ] = None
    allow_drop: Annotated[
        int | None,
        _text(
            CONSTRAINTS,
            "--allow-drop",
            min=1,
            help="Maximum number of encoder layers that the plan may leave out (needs --model, --data).",
        ),
    ] = None
    allow_drop_heads: Annotated[
        int | None,
        _text(
            CONSTRAINTS,
            "--allow-drop-heads",
            min=1,
            help="Maximum number of attention heads that the plan may leave out in all (needs --model, --data).",
        ),
    ] = None
    max_formats: Annotated[
        int | None,
        _text(CONSTRAINTS, "--max-formats", min=1, help="Largest number of different formats (kernels)."),
    ] = None
    max_loss: Annotated[
        float | None, _text(CONSTRAINTS, "--max-loss", help="Largest predicted loss; needs --least.")
    ] = None
    least: Annotated[
        str | None,
        _text(
            CONSTRAINTS,
            "--least",
            help="Resource to minimize under --max-loss: bytes, total-bytes, latency, token, energy, dram or bops.",
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class ShortlistOptions:
    """Several plans, and what is measured of them."""

    top_k: Annotated[
        int | None,
        _text(
            SHORTLIST, "--top-k", min=1, help="Number of diverse plans to return; -o p.json writes p.2.json and so on."
        ),
    ] = None
    within: Annotated[
        str | None,
        _text(SHORTLIST, "--within", help="With --top-k: largest distance from the best plan's loss, e.g. 5%."),
    ] = None
    apart: Annotated[
        int | None,
        _text(
            SHORTLIST,
            "--apart",
            min=1,
            help="With --top-k: minimum number of matrices in which two plans differ; by default a tenth.",
        ),
    ] = None
    measure: Annotated[
        str | None, _text(SHORTLIST, "--measure", help="Time each plan on this machine in this engine (needs --model).")
    ] = None
    refine: Annotated[
        int | None,
        _text(
            SHORTLIST,
            "--refine",
            min=1,
            help="Local search that measures at most N plans on the scoring texts (needs --model, --data).",
        ),
    ] = None
    verify: Annotated[
        str | None,
        _text(
            SHORTLIST,
            "--verify",
            help="Held-out text on which to measure the plan and uniform plans (needs --model, --data).",
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How a plan is found."""

    recipe: Annotated[
        str | None,
        _text(
            SOLVER, "--recipe", help="Use a published rule instead of solving: qbert-2/3, qbert-2/4, uniform:CHOICE."
        ),
    ] = None
    solver: Annotated[str, _text(SOLVER, "--solver", help="Solver to use; see 'qbert-opt solvers'.")] = "auto"
    time_limit: Annotated[str | None, _text(SOLVER, "--time-limit", help="Time limit of the solver, e.g. 60s.")] = None


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """How a plan is written, drawn and printed."""

    output: Annotated[str | None, _text(OUTPUT, "--output", "-o", help="Write allocation.json here.")] = None
    as_json: Annotated[bool, _text(OUTPUT, "--json", help="Print JSON.")] = False
    explain: Annotated[bool, _text(OUTPUT, "--explain", help="Explain the choice of each matrix.")] = False
    plot: Annotated[str | None, _text(OUTPUT, "--plot", help="Draw the plan to this PNG or SVG.")] = None
