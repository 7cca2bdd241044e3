"""The shapes and roles of a model's weights, without the weights: everything that planning needs to know about a model.

A `ModelProfile` is stored in the score file, so that solving and simulating need no model.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..runtime.frozen import Frozen, is_empty

TABLE_BITS = 8  # embedding tables that were not scored: 8-bit codes, fp16 scale and offset per row
OTHER_BYTES = 2  # biases, LayerNorm and head in fp16
MOST_LAYERS = 10_000  # a graph of costs has nodes for each
Size = Annotated[int, Field(gt=0, lt=2**31)]  # products of two are 64-bit integers
Number = Annotated[int, Field(ge=0, lt=2**31)]
Elements = Annotated[int, Field(ge=0, lt=2**50)]

Kind = Literal[
    "query", "key", "value", "query_key_value", "position", "attention_output", "intermediate", "output", "linear"
]


class MatrixSpec(Frozen):
    """A weight matrix whose bits are searched: `rows` outputs by `columns` inputs, in encoder layer `block`.

    Attributes:
        module: its name in the model; if several modules share it, that of the first.
        kind: its role. A gated feed-forward `intermediate` has twice as many rows as `output` has columns; `position`
            maps relative positions to keys or queries; `linear` is a matrix with none of these roles.
        block: its encoder layer, from 0; if several layers share it, the first.
        rows: outputs.
        columns: inputs.
        uses: how often one inference multiplies it with the tokens: 12 if 12 layers share it.
        fixed_positions: number of vectors besides tokens that it is multiplied with, such as relative positions.
        transposed: whether the model stores it as `[columns, rows]`, as GPT-2 does; here rows are always outputs.
    """

    module: str
    kind: Kind
    block: Number
    rows: Size
    columns: Size
    uses: Number = 1
    fixed_positions: Number = 0
    transposed: bool = False

    @property
    def elements(self) -> int:
        """Number of weights."""
        return self.rows * self.columns


class TableSpec(Frozen):
    """An embedding table: `rows` entries of `columns` values, read `reads_per_token` times for each token.

    Attributes:
        module: its name in the model.
        rows: entries.
        columns: values of an entry.
        reads_per_token: how often a token reads it; every tier is read, even if the row belongs to another tier.
        tier_of: the table that this is a tier of; empty for a whole table.
    """

    module: str
    rows: Size
    columns: Size
    reads_per_token: float = Field(ge=0, lt=2**31)
    tier_of: str = ""

    @property
    def bytes(self) -> int:
        """Bytes of a table that is not searched: 8-bit codes with one fp16 scale and one fp16 offset per row."""
        return self.rows * self.columns * TABLE_BITS // 8 + self.rows * 4


class HeadSpec(Frozen):
    """A linear layer outside the encoder's layers (pooler, classifier, projection of embeddings), kept in fp16.

    Attributes:
        module: its name in the model.
        rows: outputs.
        columns: inputs.
        per_token: whether it runs on every token; otherwise once per sentence.
        before_blocks: whether it runs before the encoder's layers.
        tied_to: the embedding table whose weights it shares (and where they are counted); empty if it has its own.
    """

    module: str
    rows: Size
    columns: Size
    per_token: bool = False
    before_blocks: bool = False
    tied_to: str = ""


class ModelProfile(Frozen):
    """Shapes and roles of a BERT-style encoder, or of a decoder.

    Attributes:
        name: the model's name as the user gave it.
        architecture: class name, for example `BertForSequenceClassification`.
        sha256: hash of all weights, by which artifacts of another model are rejected.
        num_blocks: number of stored encoder layers; layers that share their weights count once.
        hidden: width of the residual stream.
        heads: attention heads per layer, of queries.
        key_value_heads: heads of keys and values where several query heads share one (grouped-query attention); None if
            each query head has its own.
        block_heads: heads of each stored layer of a model of which some are left out; `heads` are those of the whole
            model then. Empty, and not written, where every layer has `heads`.
        causal: whether each token sees only the tokens before it, as in a decoder, so that keys and values can be kept.
        matrices: searched matrices, in order of execution.
        tables: embedding tables.
        head: linear layers outside the encoder.
        other_elements: number of elements in all other tensors, including the head's own weights.
        unread_elements: those of `other_elements` that no output depends on, such as the pooler of sentence embeddings:
            they are stored with the quantized model but omitted from engines' files.
        position_limit: longest text, in tokens, that the model has positions for; None without a limit, and in files of
            earlier releases.
        context_limit: most tokens that a decoder's cache can hold, where its windows make that more than
            `position_limit`, up to which every token sees all earlier ones.
        windows: tokens that each stored layer of a decoder sees, itself included; 0 for all. Empty where all see all.
    """

    name: str
    architecture: str
    sha256: str
    num_blocks: int = Field(gt=0, le=MOST_LAYERS)
    hidden: Size
    heads: Size
    key_value_heads: Size | None = None
    block_heads: tuple[Size, ...] = Field(default=(), exclude_if=is_empty)
    causal: bool = False
    matrices: tuple[MatrixSpec, ...]
    tables: tuple[TableSpec, ...]
    head: tuple[HeadSpec, ...] = ()
    other_elements: Elements
    unread_elements: Elements = 0
    position_limit: Size | None = None
    context_limit: Size | None = None
    windows: tuple[Number, ...] = ()

    @property
    def part(self) -> str:
        """Where the searched matrices are: `encoder` or `decoder`."""
        return "decoder" if self.causal else "encoder"

    @model_validator(mode="after")
    def _check_heads(self) -> ModelProfile:
        if self.key_value_heads is not None and self.heads % self.key_value_heads:
            raise ValueError(f"key_value_heads: {self.heads} query heads cannot share {self.key_value_heads} evenly")
        if self.block_heads and (self.causal or self.key_value_heads or len(self.block_heads) != self.num_blocks):
            raise ValueError(
                f"block_heads: found {len(self.block_heads)}; an encoder with keys for every head has one for each of "
                f"{self.num_blocks} layers"
            )
        if max(self.block_heads, default=0) > self.heads:
            raise ValueError(f"block_heads: a layer has {max(self.block_heads)} of {self.heads} heads")
        return self

    @model_validator(mode="after")
    def _check_matrices(self) -> ModelProfile:
        if outside := [matrix for matrix in self.matrices if matrix.block >= self.num_blocks]:
            first = outside[0]
            raise ValueError(
                f"matrices: {first.module}: block is {first.block}; num_blocks is {self.num_blocks}, counted from 0"
            )
        for part, specs in (("matrices", self.matrices), ("tables", self.tables)):
            names = [spec.module for spec in specs]
            if len(set(names)) < len(names):
                twice = next(name for number, name in enumerate(names) if name in names[:number])
                raise ValueError(f"{part}: {twice} is named twice")
        return self

    @model_validator(mode="after")
    def _check_windows(self) -> ModelProfile:
        if self.windows and (not self.causal or len(self.windows) != self.num_blocks):
            raise ValueError(
                f"windows: found {len(self.windows)}; a decoder has one for each of {self.num_blocks} layers"
            )
        return self

    @model_validator(mode="after")
    def _check_ties(self) -> ModelProfile:
        tables = {table.module for table in self.tables}
        for spec in self.head:
            if spec.tied_to and spec.tied_to not in tables:
                raise ValueError(f"head: {spec.module} is tied to {spec.tied_to!r}, which is not a table of the model")
        return self

    def __str__(self) -> str:
        """Return the model in one line."""
        return (
            f"{self.name}: {self.architecture}, {self.num_layers} layers, {len(self.matrices)} matrices of "
            f"{self.encoder_elements:,} weights, {len(self.tables)} embedding tables, {self.float_bytes / 1e6:.2f} MB "
            "in float32"
        )

    def __repr__(self) -> str:
        """Return one line."""
        return (
            f"ModelProfile({self.name!r}, {self.architecture!r}, matrices={len(self.matrices)}, hidden={self.hidden})"
        )

    @property
    def oddity(self) -> str:
        """A feature that few engines' files support, for messages."""
        return "a decoder" if self.causal else "a model of which some attention heads are left out"

    @property
    def engine_needs(self) -> dict[str, bool]:
        """What `EngineRules.takes` needs to know about the model."""
        return {"decoder": self.causal, "fewer_heads": bool(self.block_heads)}

    def heads_of(self, item: MatrixSpec | TableSpec) -> int:
        """Return the attention heads that a matrix's rows belong to: `key` and `value` may have fewer than `query`.

        A fused matrix of such a model holds the heads of all three.

        Args:
            item: a matrix of the model; a table's rows belong to no head, and the result is the heads of queries.
        """
        kind = item.kind if isinstance(item, MatrixSpec) else ""
        if self.block_heads and isinstance(item, MatrixSpec) and kind in ("query", "key", "value"):
            return self.block_heads[item.block]
        if self.key_value_heads is None:
            return self.heads
        if kind == "query_key_value":
            return self.heads + 2 * self.key_value_heads
        return self.key_value_heads if kind in ("key", "value") else self.heads

    @property
    def num_layers(self) -> int:
        """Number of encoder layers that run; more than `num_blocks` if layers share weights."""
        uses = dict.fromkeys(range(self.num_blocks), 1)
        for matrix in self.matrices:
            if matrix.block in uses:
                uses[matrix.block] = max(uses[matrix.block], matrix.uses)
        return sum(uses.values())

    @property
    def max_tokens(self) -> int | None:
        """Longest text, in tokens, that the model reads; None if nothing limits it.

        Without a `position_limit`, it is the number of rows of the table of absolute positions.
        """
        if self.position_limit is not None:
            return self.position_limit
        rows = [t.rows for t in self.tables if t.module.endswith("position_embeddings") and t.reads_per_token == 1]
        return min(rows, default=None)

    @property
    def max_context(self) -> int | None:
        """Most tokens that a decoder's cache can hold, prompt and answer; None if nothing limits it."""
        return self.context_limit or self.max_tokens

    def seen(self, block: int, tokens: int) -> int:
        """Return how many tokens the last one sees in a layer, which is how many the layer's cache keeps.

        Args:
            block: the stored layer.
            tokens: of a sequence.
        """
        window = self.windows[block] if self.windows else 0
        return min(tokens, window) if window else tokens

    @property
    def encoder_elements(self) -> int:
        """Number of weights in the searched matrices."""
        return sum(matrix.elements for matrix in self.matrices)

    @property
    def fixed_bytes(self) -> int:
        """Bytes of everything but the matrices if tables are not searched: tables at 8 bits, the rest in fp16."""
        return sum(table.bytes for table in self.tables) + self.other_bytes

    @property
    def other_bytes(self) -> int:
        """Bytes of everything but the matrices and tables: biases, LayerNorm, head."""
        return OTHER_BYTES * self.other_elements

    @property
    def read_bytes(self) -> int:
        """Part of `other_bytes` that outputs depend on, which is what engines' files contain."""
        return OTHER_BYTES * (self.other_elements - self.unread_elements)

    @property
    def float_bytes(self) -> int:
        """Bytes of the whole model in float32."""
        return 4 * (
            self.encoder_elements + sum(table.rows * table.columns for table in self.tables) + self.other_elements
        )
