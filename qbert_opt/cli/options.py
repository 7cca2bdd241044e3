"""Options that several verbs share, defined once; options that belong together are a dataclass, see `option_groups`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import hwmodels

    from ..data.texts import LabeledTexts
    from ..models.pages import Paging
    from ..spec.activations import ActivationChoice
    from ..spec.choices import Choice
    from ..spec.scores import ScoreTable

LARGEST_SEED = 2**63 - 1  # largest that torch accepts, in 64 bits
LARGEST_BATCH = 1_000_000

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
Seed = Annotated[int, typer.Option("--seed", min=0, max=LARGEST_SEED, help="Random seed.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Do not print progress to stderr.")]
Method = Annotated[
    str,
    typer.Option(
        "--method",
        help="Quantizer to score with; see 'qbert-opt choices'. 'quantize --method' sets the one that writes.",
    ),
]
Metric = Annotated[
    str, typer.Option("--metric", help="Metric that predicts the loss of each choice; see 'qbert-opt metrics'.")
]
Bits = Annotated[str, typer.Option("--bits", help="Bit widths to choose from.")]
Groupings = Annotated[str, typer.Option("--groupings", help="Groupings to choose from.")]
Forms = Annotated[
    str | None,
    typer.Option(
        "--forms",
        help="Forms to choose from: offset, symmetric, signed, zero-point, codebook, ternary (2 bits stored in 1.6).",
    ),
]
TableBits = Annotated[
    str,
    typer.Option(
        "--table-bits",
        help="Bit widths of embedding tables to score, in the forms of --forms; none keeps all at 8 bits.",
    ),
]
ActivationBits = Annotated[
    str,
    typer.Option(
        "--activation-bits", help="Bit widths of quantized activations to score: 4, 8, 16, some of them (4,8) or none."
    ),
]
CalibrationSamples = Annotated[
    int, typer.Option("--calibration-samples", min=1, help="Number of texts in the quantizer's calibration set.")
]
ScoringSamples = Annotated[
    int, typer.Option("--scoring-samples", min=2, help="Number of texts to score, disjoint from the calibration set.")
]
ScoringPool = Annotated[
    int,
    typer.Option(
        "--scoring-pool",
        min=0,
        help="Draw the texts to score from a pool of this many, uncertain ones more often, with weights that make the "
        "scores unbiased (needs metric directional); 0: no pool.",
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", min=4, help="Truncate texts to this many tokens; by default the model's maximum."),
]
MemoryLimit = Annotated[
    str, typer.Option("--memory-limit", help="Memory to use in addition to the model itself, e.g. 1GiB.")
]
Scores = Annotated[str | None, typer.Option("--scores", "-s", help="Score table; by default the bundled reference.")]
Device = Annotated[
    str | None, typer.Option("--device", "-d", help="Target hardware: a YAML file or the name of a bundled device.")
]
SeqLen = Annotated[
    int | None,
    typer.Option(
        "--seq-len",
        min=1,
        help="Tokens per sentence, or per prompt for a decoder; by default 128, or the model's maximum if less.",
    ),
]
PricedFunctions = Annotated[
    str | None,
    typer.Option(
        "--nonlinearity",
        help="How softmax, LayerNorm and GELU are priced: in integers by table, poly or shift, or by function "
        "(softmax=poly,activation=table); auto for the cheapest that are accurate enough (the default with --engine "
        "integer); float for the first unit with floating point. By default at the device's own rates.",
    ),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, max=LARGEST_BATCH, help="Sentences per inference.")]
BatchesPerUpdate = Annotated[
    int,
    typer.Option("--batches-per-update", min=1, help="Batches averaged per update; processes of torchrun share them."),
]
TorchDevice = Annotated[
    str,
    typer.Option("--torch-device", help="PyTorch device: auto (a GPU if there is one), cpu, cuda, cuda:1."),
]

HARDWARE = "Device and workload"
DEFAULT_BITS = "2,3,4,8"
DEFAULT_TABLE_BITS = "2,3,4,6,8"
UNSCORED = "none"  # value of --table-bits: tables keep 8 bits
DEFAULT_GROUPINGS = "rows:1,rows:heads,rows:128,rows:each,columns:32,columns:64,columns:128"


@dataclass(frozen=True, slots=True)
class TextOptions:
    """Which columns and which split of a file of texts are read."""

    text_column: TextColumn = None
    label_column: LabelColumn = None
    split: Split = None

    def read(self, path: str) -> LabeledTexts:
        """Read the texts of `--data`.

        Args:
            path: value of the option.

        Raises:
            InputFileError: the file is missing, malformed, or has no such column or split.
        """
        from ..data.texts import read_texts

        return read_texts(path, text_columns=self.text_column, label_column=self.label_column, split=self.split)

    def read_other(self, path: str) -> LabeledTexts:
        """Read texts of another option from the same columns; `--split` applies to `--data` only.

        Args:
            path: value of the option.

        Raises:
            InputFileError: as `read`.
        """
        return replace(self, split=None).read(path)


@dataclass(frozen=True, slots=True)
class PagingOptions:
    """Whether the weights of a model stay on disk."""

    paged: Annotated[
        bool | None,
        typer.Option(
            "--paged/--no-paged",
            help="Keep weights and activations on disk and read them block by block; by default for a model whose "
            "float32 weights do not fit into the available memory.",
        ),
    ] = None
    scratch: Annotated[
        str | None,
        typer.Option(
            "--scratch",
            help="Folder on disk for the scratch files of a paged model; by default that of --output, or the "
            "system's temporary folder.",
        ),
    ] = None

    def beside(self, output: str | None) -> Paging:
        """Return whether models are paged, and where.

        Args:
            output: what is written; by default, scratch files are placed beside it. None if nothing is written.

        Raises:
            UsageError: `--scratch` is not a folder.
        """
        import tempfile
        from pathlib import Path

        from ..errors import UsageError
        from ..models.pages import Paging

        if self.scratch is not None and not (self.scratch and Path(self.scratch).is_dir()):
            raise UsageError(f"--scratch {self.scratch}: is not a folder. Give one on a disk with enough space.")
        by_default = tempfile.gettempdir() if output is None else Path(output).absolute().parent
        return Paging(Path(self.scratch or by_default), self.paged)


@dataclass(frozen=True, slots=True)
class GridOptions:
    """The choices that are scored."""

    method: Method = "gptq"
    bits: Bits = DEFAULT_BITS
    groupings: Groupings = DEFAULT_GROUPINGS
    forms: Forms = None
    table_bits: TableBits = DEFAULT_TABLE_BITS
    activation_bits: ActivationBits = "none"

    def matrices(self) -> tuple[Choice, ...]:
        """Return the choices of each matrix.

        Raises:
            UsageError: a bit width, grouping, form or method is unknown.
        """
        from ..quantization.calibration import method_grid
        from ..spec.forms import parse_bits, parse_forms
        from ..spec.groupings import parse_groupings

        forms = None if self.forms is None else parse_forms(self.forms)
        return method_grid(self.method, parse_bits(self.bits), parse_groupings(self.groupings), forms)

    def tables(self) -> tuple[Choice, ...]:
        """Return the choices of each embedding table, in the forms of matrices; none if `--table-bits` is `none`.

        Raises:
            UsageError: a bit width or form is unknown.
        """
        from ..spec.forms import parse_bits, parse_forms
        from ..spec.tables import table_grid

        if self.table_bits == UNSCORED:
            return ()
        forms = ("offset",) if self.forms is None else parse_forms(self.forms)
        return table_grid(parse_bits(self.table_bits, "--table-bits"), forms=forms)

    def activations(self) -> tuple[ActivationChoice, ...]:
        """Return the choices of each matrix's input; none if `--activation-bits` is `none`.

        Raises:
            UsageError: a bit width is unknown.
        """
        from ..spec.activations import activation_grid, parse_activation_bits

        return activation_grid(parse_activation_bits(self.activation_bits))


def load_target(device: str | None) -> hwmodels.Device | None:
    """Read the device that `--device` names, if it names one.

    Args:
        device: a YAML file, a bundled device's name, or None.
    """
    return None if device is None else load_device(device)


def load_device(device: str, option: str = "--device ") -> hwmodels.Device:
    """Read a device; a malformed file is a bad input file, an unknown name a usage error.

    Args:
        device: a YAML file, or a bundled device's name.
        option: the flag before its name in a message; empty for an argument.
    """
    from pathlib import Path

    from ..costs.devices import load_device as load
    from ..errors import DeviceError, UsageError

    try:
        return load(device)
    except DeviceError as error:
        if Path(device).is_file():
            raise
        raise UsageError(f"{option}{error}") from None


def load_scores(scores: str) -> ScoreTable:
    """Read the table that `--scores` names; `reference` is the bundled one.

    Args:
        scores: a file, or `reference`.
    """
    from ..data.reference import reference_scores
    from ..spec.scores import read_scores

    return reference_scores() if scores == "reference" else read_scores(scores)
