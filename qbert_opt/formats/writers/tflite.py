"""TFLite: codes of 2, 4 and 8 bits per row and of 4 bits in blocks, for LiteRT on phones and Arm boards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputFileError, UsageError
from ..format import Activations
from ..litert_codes import Codes, pack
from ..tflite_file import write_tflite
from ..tflite_graph import TOKENS, Graph

if TYPE_CHECKING:
    from ...models.plain_encoder import PlainEncoder, PlainHead
    from ...quantization.quantized_matrix import StoredMatrix
    from ...spec.planned import PlannedActivation
    from ..traced_model import TracedModel

TITLE = "TFLite"
FILE = "model.tflite"
FILES = (FILE,)
TARGET = "`engine` litert"
USUAL_TOKENS = 128
HIDES = 1e4  # subtracted from scores of padding before the softmax: its weight is then 0 in float32
IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"


def write(
    traced: TracedModel,
    stored: Iterable[StoredMatrix],
    folder: Path,
    activations: Activations = "int8",
    inputs: Mapping[str, PlannedActivation] | None = None,
    scores: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Write `model.tflite`, which reads one text of any length; its signature has transformers' names.

    See `Format.write`. Biases and LayerNorms are float32; matrices without codes are float16 if that is exact.

    Raises:
        InputFileError: a stored matrix has no place in the architecture.
        UsageError: the architecture, the head or an input is not supported, inputs have static ranges, or a matrix has
            a form without kernels.
    """
    from ...models.plain_encoder import plain_encoder

    planned = {module: (item.bits, item.scheme) for module, item in (inputs or {}).items()}
    planned |= dict.fromkeys(scores or {}, (8, "tensor"))
    for module, (bits, scheme) in planned.items():
        if (bits, scheme) != (8, "token"):
            raise UsageError(
                f"{TARGET}: rounds the inputs of products to 8 bits per token as it runs; those of {module} are "
                f"planned as {bits}bit/{scheme}. With static or 16-bit inputs LiteRT rounds outputs too, for which "
                "plans have no ranges. Use `activations` int8 or float32, or score inputs with `activation_bits` 8 and "
                "plan for this engine."
            )
    if not set(traced.inputs) <= {IDS, MASK, TYPES} or MASK not in traced.inputs:
        raise UsageError(f"{TARGET}: needs a tokenizer that returns {IDS} and {MASK}; this returns {traced.inputs}.")
    model = traced.model
    encoder = plain_encoder(model, TARGET, narrow_embeddings=True)
    codes = {matrix.module: pack(matrix.module, matrix.quantized) for matrix in stored}
    writer = _Writer(model, encoder, codes)
    contents = writer.graph_of(traced.inputs)
    if writer.unused:
        raise InputFileError(f"{min(writer.unused)}: has no place in LiteRT's graph of a BERT. Report this model.")
    write_tflite(folder / FILE, contents)


class _Writer:
    """Builds the graph of a plain encoder, part by part."""

    def __init__(self, model: Any, encoder: PlainEncoder, codes: Mapping[str, Codes]) -> None:
        self.model, self.encoder, self.codes = model, encoder, codes
        self.unused = set(codes)
        first = 0 if encoder.padding is None else encoder.padding + 1
        self.graph = Graph(min(USUAL_TOKENS, encoder.positions - first))

    def graph_of(self, names: tuple[str, ...]) -> Any:
        graph, encoder = self.graph, self.encoder
        inputs = {name: graph.ids(name) for name in names}
        ids = graph.reshaped(inputs[IDS], (TOKENS,))
        mask = graph.hidden(inputs[MASK], HIDES)
        types = graph.reshaped(inputs[TYPES], (TOKENS,)) if TYPES in inputs else None
        x = self.layers(self.embedded(ids, types), mask)
        if encoder.head is None:
            outputs = {"last_hidden_state": graph.reshaped(x, (1, TOKENS, encoder.hidden), "last_hidden_state")}
        else:
            outputs = self.answered(x, encoder.head)
        return graph.finished(inputs, outputs)

    def embedded(self, ids: int, types: int | None) -> int:
        graph, encoder = self.graph, self.encoder
        x = self.rows(ids, encoder.word)
        if encoder.token_type is not None:
            alike = types is None
            of_type = graph.constant(np.zeros(1, np.int32)) if types is None else types
            x = graph.both("ADD", x, self.rows(of_type, encoder.token_type, 1 if alike else TOKENS))
        positions = graph.positions(ids, encoder.padding)
        x = self.norm(graph.both("ADD", x, self.rows(positions, encoder.position)), encoder.embedding_norm)
        return x if encoder.projection is None else self.linear(x, encoder.projection)

    def layers(self, x: int, mask: int) -> int:
        graph = self.graph
        for layer in self.encoder.layers:
            query, key, value = (self.linear(x, layer[part]) for part in ("query", "key", "value"))
            seen = graph.attention(query, key, value, mask, self.encoder.heads)
            x = self.norm(graph.both("ADD", self.linear(seen, layer["attention_output"]), x), layer["attention_norm"])
            wide = graph.one("GELU", self.linear(x, layer["intermediate"]))
            x = self.norm(graph.both("ADD", self.linear(wide, layer["output"]), x), layer["output_norm"])
        return x

    def answered(self, x: int, head: PlainHead) -> dict[str, int]:
        graph, count = self.graph, TOKENS if head.each_token else 1
        x = x if head.each_token else graph.first(x)
        if head.dense is not None and head.activation is not None:
            x = graph.one(head.activation.upper(), self.linear(x, head.dense, count))
        logits = self.linear(x, head.classifier, count)
        if not head.each_token:
            return {"logits": logits}
        if head.classifier == "qa_outputs":
            starts, ends = graph.halves(logits)
            return {n: graph.reshaped(x, (1, TOKENS), n) for n, x in (("start_logits", starts), ("end_logits", ends))}
        labels = self.model.get_submodule(head.classifier).out_features
        return {"logits": graph.reshaped(logits, (1, TOKENS, labels), "logits")}

    def rows(self, ids: int, module: str, count: int = TOKENS) -> int:
        return self.graph.rows(ids, self.weight(module, halved=False), module, count)

    def linear(self, x: int, module: str, count: int = TOKENS) -> int:
        bias = self.model.get_submodule(module).bias
        array = None if bias is None else bias.detach().numpy()
        return self.graph.linear(x, self.weight(module, halved=True), array, module, count)

    def norm(self, x: int, module: str) -> int:
        scale, shift = (self.parameter(f"{module}.{part}") for part in ("weight", "bias"))
        return self.graph.normalized(x, scale, shift, self.encoder.epsilon, module)

    def weight(self, module: str, *, halved: bool) -> Codes | NDArray[np.floating]:
        """Return the codes of a module or, if it has none, its floats, in float16 if allowed and exact."""
        if module in self.codes:
            self.unused.discard(module)
            return self.codes[module]
        values = self.parameter(f"{module}.weight")
        half = values.astype(np.float16)
        return half if halved and np.array_equal(half.astype(np.float32), values) else values

    def parameter(self, name: str) -> NDArray[np.float32]:
        array: NDArray[np.float32] = self.model.get_parameter(name).detach().numpy()
        return array
