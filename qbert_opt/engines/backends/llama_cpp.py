"""llama.cpp: GGUF files with 2, 4, 5 and 8-bit blocks; plain BERTs as classifiers and embeddings, and decoders."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputFileError, UsageError
from ...formats.affine import AffineMatrix
from ...formats.ggml_blocks import F32, dequantize
from ...formats.gguf_file import GgufFile, Tensor, read_gguf, write_gguf
from ...formats.writers.gguf import CLASSIFIER, FILE, POOLER, RANK
from ...runtime.native import native_code
from ...spec.forms import Form
from ..file_law import FileLaw, GraphLaw
from ..llama_decoder import Decoder
from ..llama_server import started
from ..rules import EngineRules, Speed, TableRules
from ..session import Activations, Arrays, Session

INSTALL = "pip install 'qbert-opt[llama-cpp]'"
FORMAT = "gguf"
_FORMS: tuple[Form, ...] = ("symmetric", "signed")
RULES = EngineRules(
    bits=(2, 3, 4, 5, 6, 7, 8),
    forms=_FORMS,
    group_multiple=32,
    columns_multiple=32,
    tables=TableRules(forms=_FORMS, tiers=False),
    integer_inputs={"gemm": (8,)},
    activation_bits=32,
    fewer_heads=False,
    float_difference=1e-2,
    file=FileLaw(
        containers=(2, 4, 5, 8),
        blocks={2: (64,), 4: (32,), 5: (32,), 8: (32,)},
        other_blocks=(4, 32),
        blocks_everywhere=True,
        graph=GraphLaw(1560, 904, entry=20.5, wide_vectors=True),
        decoders=GraphLaw(1200, 600, entry=35, wide_vectors=True),
    ),
    speeds=(
        Speed("2 bits on x86", None, "assumed: storage only; its x86 kernels are scalar"),
        Speed("4 and 8 bits", None, "assumed: as fast as the device file says of integers"),
    ),
    sources=(
        "blocks of 32 inputs at 4, 5 and 8 bits, of 64 at 2 bits, one fp16 scale each: ggml-common.h of llama.cpp; "
        "Q2_0: llama.cpp pull request 24448",
        "3 bits are widened to 4, 6 and 7 to 8, 2 bits in blocks of 32 to 4: qbert_opt/formats/ggml_blocks.py",
        "8-bit activations in blocks of 32 for products of weights: vec_dot_type of ggml-cpu.c",
        "biases, LayerNorms and token types are float32, and the file holds the vocabulary: "
        "qbert_opt/formats/writers/gguf.py; 20.5 bytes for a token of BERT's English vocabulary, 35 for a decoder's "
        "byte-level piece and its merge, as GPT-2's vocabulary has",
        "decoders: Llama, Mistral, Qwen2, Qwen3, GPT-2, Gemma 1 to 3: qbert_opt/formats/gguf_decoder.py",
        "float32 answers differ by up to 1 % of the largest: GELU and attention go through float16 tables "
        "(ggml-cpu, GGML_GELU_FP16)",
    ),
)


def usable() -> bool:
    """Whether the package is installed."""
    return importlib.util.find_spec("xllamacpp") is not None


def label() -> str:
    """Name and version."""
    return f"llama.cpp (xllamacpp {importlib.metadata.version('xllamacpp')})"


@native_code()
def open_model(folder: Path, threads: int | None = None, activations: Activations = "int8") -> _Running | Decoder:
    """Load a written model; with float32 activations its weights are unpacked to float32 first."""
    path = folder / FILE
    contents = read_gguf(path)
    decoder = contents.metadata.get("general.architecture") != "bert"
    if activations != "float32":
        return Decoder(path, path, contents, threads) if decoder else _Running(path, path, contents, threads)
    if decoder:
        scratch = Path(tempfile.mkdtemp())  # opened again for longer texts, and removed with the session
        try:
            write_gguf(scratch / FILE, whole := in_float(contents))
            return Decoder(scratch / FILE, path, whole, threads, scratch)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
    with tempfile.TemporaryDirectory() as scratch_name:
        unpacked = Path(scratch_name) / FILE
        write_gguf(unpacked, in_float(contents))
        return _Running(unpacked, path, contents, threads)


def in_float(contents: GgufFile) -> GgufFile:
    """Return a file with every tensor in float32.

    Args:
        contents: with tensors of any type that is written here.
    """
    tensors = {}
    for name, tensor in contents.tensors.items():
        values = dequantize(tensor.kind, tensor.data)
        tensors[name] = Tensor(F32, tensor.shape, values.view(np.uint8).reshape(len(values), -1))
    return GgufFile(contents.metadata, tensors)


def product(
    matrix: AffineMatrix | NDArray[np.float32], threads: int | None = None, activations: Activations = "int8"
) -> Session:
    """llama.cpp runs whole models only.

    Raises:
        UsageError: always.
    """
    raise UsageError("`engine` llama-cpp: runs whole models only, so that single products cannot be timed.")


@native_code()
def misread(folder: Path, texts: Iterable[tuple[str, Sequence[int]]]) -> str | None:
    """Return the first text that llama.cpp's tokenizer reads differently from the model's; None if there is none.

    Of an encoder, the same tokens have the same state, bit for bit, so states tell whether a text became them.

    Args:
        folder: a written model.
        texts: each with its token ids.
    """
    session = open_model(folder, 1)
    if isinstance(session, Decoder):
        return next((text for text, ids in texts if session.tokens(text) != list(ids)), None)
    return next((text for text, ids in texts if not np.array_equal(session.state(text), session.state(ids))), None)


class _Running:
    """A loaded model. llama.cpp computes the sentence's state; a classifier's two layers run here, from the file.

    Its server would apply them too, but hands back as many numbers as the model is wide, of which only the first ones
    are answers and the rest is memory behind them.
    """

    def __init__(self, opened: Path, path: Path, contents: GgufFile, threads: int | None) -> None:
        """Load a model.

        Args:
            opened: the file that llama.cpp opens.
            path: of the exported file, for messages.
            contents: of the exported file.
            threads: processor threads; None lets the engine choose.

        Raises:
            InputFileError: llama.cpp cannot load it, or it lacks what an export has.
        """
        pooling: Any = contents.metadata.get("bert.pooling_type")
        longest: Any = contents.metadata.get("bert.context_length")
        width: Any = contents.metadata.get("bert.embedding_length")
        if not all(isinstance(number, int) and number > 0 for number in (pooling, longest, width)):
            raise InputFileError(f"{path}: lacks pooling, length or width. Export the model again.")
        self._width = int(width)
        self._head = _head(contents, path, self._width) if pooling == RANK else None
        self._server = started(opened, path, int(longest), threads, 2 if pooling == RANK else pooling)
        self.state([0])  # closing a server that never answered waits without end

    @native_code()
    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Answer one text after the other; an embedding stands at each of its tokens, so that any mean of them is it.

        Raises:
            UsageError: pairs of texts: llama.cpp has no token types.
        """
        if np.any(inputs.get("token_type_ids", 0)):
            raise UsageError("`engine` llama-cpp: has no token types, so that it cannot read pairs of texts.")
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        states = np.stack([self.state(row[kept > 0].tolist()) for row, kept in zip(ids, mask, strict=True)])
        if self._head is None:
            return {"last_hidden_state": np.repeat(states[:, None], ids.shape[1], axis=1)}
        pooler, pooler_bias, classifier, bias = self._head
        return {"logits": np.tanh(states @ pooler.T + pooler_bias) @ classifier.T + bias}

    def state(self, text: str | Sequence[int]) -> NDArray[np.float32]:
        """Return the pooled state of a text or of its token ids, `[width]`."""
        answer = self._server.handle_embeddings({"input": [text], "embd_normalize": -1})
        if "data" not in answer:
            raise UsageError(f"`engine` llama-cpp: {answer.get('error', {}).get('message', 'no answer')}.")
        state = np.asarray(answer["data"][0]["embedding"], np.float32)
        if state.shape != (self._width,):
            raise UsageError(f"`engine` llama-cpp: returned {state.shape} numbers; expected {self._width}.")
        return state


def _head(contents: GgufFile, path: Path, width: int) -> tuple[NDArray[np.float32], ...]:
    """Pooler and classifier with their biases, float32: `[width, width]`, `[width]`, `[labels, width]`, `[labels]`."""
    parts = []
    for name in (POOLER, CLASSIFIER):
        for suffix in ("weight", "bias"):
            tensor = contents.tensors.get(f"{name}.{suffix}")
            if tensor is None:
                raise InputFileError(f"{path}: lacks {name}.{suffix}. Export the model again.")
            parts.append(dequantize(tensor.kind, tensor.data).reshape(tensor.shape))
    labels = parts[3].size
    if [part.shape for part in parts] != [(width, width), (width,), (labels, width), (labels,)]:
        raise InputFileError(f"{path}: pooler and classifier do not fit the width {width}. Export the model again.")
    return tuple(parts)
