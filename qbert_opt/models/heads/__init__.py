"""One file for each kind of head, with everything that is specific to it."""

from __future__ import annotations

from ...errors import InputFileError
from ..samples import OutputKind
from .classes import Classes
from .embeddings import Embeddings
from .next_token import NextTokens
from .protocol import HeadKind
from .regression import Regression
from .spans import Spans
from .tags import Tags
from .vocabulary import Vocabulary

KINDS: dict[OutputKind, HeadKind] = {
    head.kind: head for head in (Classes(), Tags(), Spans(), Vocabulary(), NextTokens(), Regression(), Embeddings())
}
ENDINGS: dict[str, HeadKind] = {
    ending: head for head in KINDS.values() for ending in (head.ending, *head.other_endings) if ending
}
OTHERS = {"ForConditionalGeneration": "has an encoder and a decoder, or reads more than text, which is not supported"}


def kind_of(architecture: str, source: str = "") -> HeadKind:
    """Return the kind of head from the name of a model's class (`architectures` in its `config.json`).

    Args:
        architecture: name of the class.
        source: what the user called the model.

    Raises:
        InputFileError: the class has no supported kind of head; lists those that are supported.
    """
    for ending, head in ENDINGS.items():
        if architecture.endswith(ending):
            return head
    for ending, reason in OTHERS.items():
        if architecture.endswith(ending):
            raise InputFileError(f"{source or architecture}: is a {architecture}, which {reason}.")
    known = ", ".join(f"…{ending}" for ending in ENDINGS)
    raise InputFileError(
        f"{source or architecture}: is a {architecture}. Legal: {known}. Give a model with such a head."
    )
