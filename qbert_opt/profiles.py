"""What a model is made of, as far as planning needs it: shapes and roles, no weights.

A `ModelProfile` travels inside the scores, so that solving and simulating need no model.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

TABLE_BITS = 8  # embedding tables until they are searched: 8-bit codes, fp16 scale and offset per row
OTHER_BYTES = 2  # biases, LayerNorm and head in fp16

Kind = Literal["query", "key", "value", "attention_output", "intermediate", "output", "linear"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class MatrixSpec(_Frozen):
    """A weight matrix whose bits are searched: `rows` outputs by `columns` inputs, in encoder layer `block`."""

    module: str
    kind: Kind
    block: int = Field(ge=0)
    rows: int = Field(gt=0)
    columns: int = Field(gt=0)

    @property
    def elements(self) -> int:
        """Number of weights."""
        return self.rows * self.columns


class TableSpec(_Frozen):
    """An embedding table: `rows` entries of `columns` values, read `reads_per_token` times for each token."""

    module: str
    rows: int = Field(gt=0)
    columns: int = Field(gt=0)
    reads_per_token: float = Field(ge=0)

    @property
    def bytes(self) -> int:
        """Bytes as stored: 8-bit codes with one fp16 scale and one fp16 offset per row."""
        return self.rows * self.columns * TABLE_BITS // 8 + self.rows * 4


class HeadSpec(_Frozen):
    """A linear layer outside the encoder (pooler, classifier), kept in fp16; runs once per sentence."""

    module: str
    rows: int = Field(gt=0)
    columns: int = Field(gt=0)


class ModelProfile(_Frozen):
    """Shapes and roles of a BERT-style encoder.

    Attributes:
        name: the model's name as the user gave it.
        architecture: class name, for example `BertForSequenceClassification`.
        sha256: hash of all weights; artifacts of other models are refused by it.
        num_blocks: encoder layers.
        hidden: width of the residual stream.
        heads: attention heads per layer.
        matrices: searched matrices, in order of execution.
        tables: embedding tables.
        head: linear layers outside the encoder.
        other_elements: elements of every other tensor, the head's weights included.
    """

    name: str
    architecture: str
    sha256: str
    num_blocks: int = Field(gt=0)
    hidden: int = Field(gt=0)
    heads: int = Field(gt=0)
    matrices: tuple[MatrixSpec, ...]
    tables: tuple[TableSpec, ...]
    head: tuple[HeadSpec, ...] = ()
    other_elements: int = Field(ge=0)

    @property
    def encoder_elements(self) -> int:
        """Weights in searched matrices."""
        return sum(matrix.elements for matrix in self.matrices)

    @property
    def fixed_bytes(self) -> int:
        """Bytes of everything that is not searched: tables at 8 bits, the rest in fp16."""
        return sum(table.bytes for table in self.tables) + OTHER_BYTES * self.other_elements

    @property
    def float_bytes(self) -> int:
        """Bytes of the whole model in float32."""
        return 4 * (
            self.encoder_elements + sum(table.rows * table.columns for table in self.tables) + self.other_elements
        )
