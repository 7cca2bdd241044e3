"""Options that several verbs share, written once."""

from __future__ import annotations

from typing import Annotated

import typer

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
Method = Annotated[str, typer.Option("--method", help="Quantizer that will write the model; see 'qbert-opt formats'.")]
Metric = Annotated[str, typer.Option("--metric", help="Estimator of the loss; see 'qbert-opt metrics'.")]
Bits = Annotated[str, typer.Option("--bits", help="Bit widths to choose from.")]
Groupings = Annotated[str, typer.Option("--groupings", help="Groupings to choose from.")]
Forms = Annotated[
    str | None,
    typer.Option("--forms", help="What ranges store: offset, symmetric, zero-point, codebook; several to choose from."),
]
TableBits = Annotated[
    str, typer.Option("--table-bits", help="Bit widths of embedding tables; none keeps them at 8 bits, not scored.")
]
ActivationBits = Annotated[str, typer.Option("--activation-bits", help="Widths of rounded inputs: 8, 16 or 8,16.")]
CalibrationSamples = Annotated[int, typer.Option("--calibration-samples", min=1, help="Texts that fit the quantizer.")]
ScoringSamples = Annotated[
    int, typer.Option("--scoring-samples", min=2, help="Texts that score; never the same as those that fit.")
]
TorchDevice = Annotated[
    str,
    typer.Option("--torch-device", help="Where torch computes: auto (a GPU if there is one), cpu, cuda, cuda:1."),
]
DEFAULT_BITS = "2,3,4,8"
DEFAULT_TABLE_BITS = "2,3,4,6,8"
DEFAULT_GROUPINGS = "rows:1,rows:heads,rows:128,rows:each,columns:32,columns:64,columns:128"


def load_target(device: str | None):  # type: ignore[no-untyped-def]
    """Read the device that `--device` names; a wrong file is a bad input file, an unknown name a usage error."""
    if device is None:
        return None
    from pathlib import Path

    from hwmodels import DeviceError, load_device

    from ..errors import InputFileError, UsageError

    try:
        return load_device(device)
    except DeviceError as error:
        if Path(device).is_file():
            raise InputFileError(str(error)) from None
        raise UsageError(f"--device {error}") from None


def load_scores(scores: str):  # type: ignore[no-untyped-def]
    """Read the table that `--scores` names; `reference` is the bundled one."""
    from ..reference import reference_scores
    from ..scores import read_scores

    return reference_scores() if scores == "reference" else read_scores(scores)
