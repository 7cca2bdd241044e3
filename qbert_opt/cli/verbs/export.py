"""`qbert-opt export`: write a quantized folder as the files of an engine."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import options
from ..progress import progress


def command(
    folder: Annotated[str, typer.Argument(help="A quantized folder.")],
    engine: Annotated[
        str, typer.Option("--engine", help="openvino, onnxruntime, llama-cpp, litert, or qnn (checked here).")
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder to write.")],
    data: Annotated[
        str | None,
        typer.Option("--data", help="Texts to compare outputs on; by default scored texts, which the folder contains."),
    ] = None,
    text_column: options.TextColumn = None,
    split: options.Split = None,
    activations: Annotated[
        str | None,
        typer.Option(
            "--activations",
            help="planned, int8, int8-coarse (faster, less accurate) or float32 (slow); by default the first of "
            "planned, int8 and float32 that agrees with PyTorch.",
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance",
            min=0,
            help="Largest accepted loss per answer (nats of KL; for embeddings and regressions a relative squared "
            "distance) instead of the usual limits: 0.02, and 2 % of decided answers changed.",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            help="Name the ONNX file as transformers.js expects for a dtype: fp32 (onnx/model.onnx, the default), q8 "
            "(onnx/model_quantized.onnx), int8, uint8, q4 or q2. Only the name changes: bit widths are the plan's.",
        ),
    ] = None,
    quiet: options.Quiet = False,
) -> None:
    """Write the model in an engine's file format, run it there, and compare the outputs with PyTorch's.

    The folder is laid out as on the hub: `onnx/model.onnx` or `openvino/openvino_model.xml` beside config, tokenizer
    and, for a sentence-transformers folder, its modules and pooling.

    Examples:
    `qbert-opt export out --engine openvino -o out-openvino`

    `qbert-opt export out --engine onnxruntime --dtype q8 -o out-js`
    """
    from ...data.texts import read_texts
    from ...workflows.export import export_model

    texts = None if data is None else read_texts(data, text_columns=text_column, split=split)
    with progress("exporting", quiet=quiet) as tell:
        record = export_model(
            folder,
            engine,
            output,
            texts=texts,
            tolerance=tolerance,
            activations=activations,  # type: ignore[arg-type]
            dtype=dtype,
            progress=tell,
        )
    share = 100 * record.exported_bytes / record.source_bytes - 100
    typer.echo(
        f"{output}: {record.engine_label}, {record.exported_bytes:,} bytes; the quantized tensors take "
        f"{record.source_bytes:,} ({share:+.1f} %)"
    )
    typer.echo(
        f"activations {record.activations}; compared with PyTorch on {record.agreement.answers} answers to "
        f"{record.checked_on}: {record.agreement}; with float32 activations {record.graph_difference:.2g}"
    )
