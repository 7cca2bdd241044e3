"""GGUF: codes of 2, 4, 5 and 8 bits in GGML's blocks, for llama.cpp and tools that build on it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputFileError, UsageError
from ..format import Activations
from ..ggml_blocks import F16, F32, pack
from ..gguf_decoder import OUTPUT, float_parts, gguf_decoder, is_decoder
from ..gguf_file import GgufFile, Tensor, write_gguf
from ..gguf_vocabulary import decoder_vocabulary
from ..wordpiece import vocabulary

if TYPE_CHECKING:
    from ...models.plain_encoder import PlainEncoder
    from ...quantization.quantized_matrix import StoredMatrix
    from ...spec.planned import PlannedActivation
    from ..traced_model import TracedModel

TITLE = "GGUF"
FILE = "model.gguf"
FILES = (FILE,)
TARGET = "`engine` llama-cpp"
WORD, POSITION, TOKEN_TYPE = "token_embd", "position_embd", "token_types"
POOLER, CLASSIFIER = "cls", "cls.output"
PARTS = {
    "query": "attn_q",
    "key": "attn_k",
    "value": "attn_v",
    "attention_output": "attn_output",
    "attention_norm": "attn_output_norm",
    "intermediate": "ffn_up",
    "output": "ffn_down",
    "output_norm": "layer_output_norm",
}
POOLINGS = {"mean": 1, "cls": 2}  # llama_pooling_type
RANK = 4  # pooling that applies the classifier
MIXED = 1  # general.file_type "mostly F16", which nothing reads for a mixed file


def write(
    traced: TracedModel,
    stored: Iterable[StoredMatrix],
    folder: Path,
    activations: Activations = "int8",
    inputs: Mapping[str, PlannedActivation] | None = None,
    scores: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Write `model.gguf`: architecture, vocabulary, pooling, and every tensor under its name in llama.cpp.

    See `Format.write`. LayerNorms, biases and token types are float32, which llama.cpp needs; matrices without codes,
    including the head's, are float16 if that is exact.

    Raises:
        InputFileError: a stored matrix has no place in the architecture.
        UsageError: the architecture, head, tokenizer or pooling is not supported, inputs are planned, or a matrix has a
            form without a block type.
    """
    if inputs or scores:
        raise UsageError(f"{TARGET}: rounds inputs by itself, in blocks of 32. Use `activations` int8 or float32.")
    contents = _decoder(traced, stored) if is_decoder(traced.model) else _encoder(traced, stored)
    write_gguf(folder / FILE, contents)


def _decoder(traced: TracedModel, stored: Iterable[StoredMatrix]) -> GgufFile:
    model = traced.model
    decoder = gguf_decoder(model, TARGET)
    rows = len(model.get_input_embeddings().weight)
    metadata = {"general.file_type": MIXED, **decoder.metadata, **decoder_vocabulary(traced.tokenizer, TARGET, rows)}
    codes = {}
    for matrix in stored:
        if matrix.module not in decoder.names:
            raise InputFileError(f"{matrix.module}: has no place in llama.cpp's decoder. Report this model.")
        kind, data = pack(matrix.module, matrix.quantized)
        shape = tuple(matrix.quantized.codes.shape)
        codes[decoder.names[matrix.module]] = Tensor(kind, shape, decoder.in_turn(matrix.module, data))
    names = {*decoder.names.values(), OUTPUT}
    floats = {
        name: _matrix(values) if name in names else _single(values)
        for name, values in float_parts(model, decoder, codes)
    }
    return GgufFile(metadata, floats | codes)


def _encoder(traced: TracedModel, stored: Iterable[StoredMatrix]) -> GgufFile:
    from ...models.plain_encoder import ZERO_BASED, plain_encoder

    model = traced.model
    encoder = plain_encoder(model, TARGET, ZERO_BASED, ("BertForSequenceClassification",))
    rows = len(model.get_submodule(encoder.word).weight)
    metadata = _metadata(model, encoder) | vocabulary(traced.tokenizer, TARGET, rows)
    names = dict(_matrix_names(encoder))
    codes = {}
    for matrix in stored:
        if matrix.module == encoder.token_type:
            continue  # llama.cpp adds one row to every token, and adds float32 only
        if matrix.module not in names:
            raise InputFileError(f"{matrix.module}: has no place in llama.cpp's BERT. Report this model.")
        kind, data = pack(matrix.module, matrix.quantized)
        rows, columns = matrix.quantized.codes.shape
        codes[names[matrix.module]] = Tensor(kind, (rows, columns), data)
    return GgufFile(metadata, dict(_floats(model, encoder, names, codes)) | codes)


def _metadata(model: Any, encoder: PlainEncoder) -> dict[str, Any]:
    from ...models.sentence_embeddings import SentenceEmbedding, embedding_of

    embedding = embedding_of(model.config) or SentenceEmbedding()
    pooling = RANK
    if encoder.head is None:
        if len(embedding.modes) > 1 or embedding.modes[0] not in POOLINGS:
            raise UsageError(
                f"{TARGET}: pools by {', '.join(POOLINGS)} only; the model by {' and '.join(embedding.modes)}. Use "
                "`engine` onnxruntime or openvino."
            )
        pooling = POOLINGS[embedding.modes[0]]
    fields: dict[str, Any] = {
        "general.architecture": "bert",
        "general.file_type": MIXED,
        "bert.context_length": encoder.positions,
        "bert.embedding_length": encoder.hidden,
        "bert.feed_forward_length": encoder.feed_forward,
        "bert.block_count": len(encoder.layers),
        "bert.attention.head_count": encoder.heads,
        "bert.attention.layer_norm_epsilon": encoder.epsilon,
        "bert.attention.causal": False,
        "bert.pooling_type": pooling,
        "tokenizer.ggml.token_type_count": 1,
    }
    if encoder.head is not None:
        labels = model.config.id2label
        fields["bert.classifier.output_labels"] = [str(labels[index]) for index in range(model.config.num_labels)]
    return fields


def _matrix_names(encoder: PlainEncoder) -> Iterator[tuple[str, str]]:
    """Yield module and name in the file of every tensor that may have codes."""
    yield encoder.word, f"{WORD}.weight"
    yield encoder.position, f"{POSITION}.weight"
    for layer, part, module in encoder.matrices:
        yield module, f"blk.{layer}.{PARTS[part]}.weight"
    if encoder.head is not None and encoder.head.dense is not None:
        yield encoder.head.dense, f"{POOLER}.weight"
        yield encoder.head.classifier, f"{CLASSIFIER}.weight"


def _floats(
    model: Any, encoder: PlainEncoder, names: Mapping[str, str], coded: Collection[str]
) -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors without codes by name, matrices in float16 if that is exact."""

    def parameter(name: str) -> NDArray[np.float32]:
        array: NDArray[np.float32] = model.get_parameter(name).detach().numpy()
        return array

    for module, name in names.items():
        if name not in coded:
            yield name, _matrix(parameter(f"{module}.weight"))
        if getattr(model.get_submodule(module), "bias", None) is not None:
            yield name.removesuffix("weight") + "bias", _single(parameter(f"{module}.bias"))
    norms = [(encoder.embedding_norm, f"{WORD}_norm")]
    norms += [
        (module, f"blk.{index}.{PARTS[part]}")
        for index, layer in enumerate(encoder.layers)
        for part, module in layer.items()
        if part.endswith("_norm")
    ]
    for module, name in norms:
        yield f"{name}.weight", _single(parameter(f"{module}.weight"))
        yield f"{name}.bias", _single(parameter(f"{module}.bias"))
    types = np.zeros((1, encoder.hidden), np.float32)
    if encoder.token_type is not None:
        types = parameter(f"{encoder.token_type}.weight")[:1]
    yield f"{TOKEN_TYPE}.weight", _single(types)


def _matrix(values: NDArray[np.float32]) -> Tensor:
    half = values.astype(np.float16)
    if not np.array_equal(half.astype(np.float32), values):
        return _single(values)
    return Tensor(F16, values.shape, np.ascontiguousarray(half).view(np.uint8).reshape(len(values), -1))


def _single(values: NDArray[np.float32]) -> Tensor:
    rows = values.reshape(-1, values.shape[-1])
    return Tensor(F32, values.shape, np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1))
