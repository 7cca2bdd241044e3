"""A decoder that llama.cpp runs: the states of all tokens are its own, the last product is repeated here.

Its server hands out probabilities of one token at a time, as text, so that a vocabulary of 100,000 for each token of a
text would take minutes. It hands out the last states of all tokens at once. What follows them, the output layer and
Gemma's bound on logits, is computed here from the file, in llama.cpp's arithmetic: a layer of codes reads states that
are rounded to 8 bits in blocks of 32 (`quantize_row_q8_0` of ggml-quants.c), one in float16 reads float16. A test
compares the result with the probabilities that llama.cpp itself answers.
"""

from __future__ import annotations

import http.client
import json
import secrets
import shutil
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from ..errors import InputFileError, UsageError
from ..formats.ggml_blocks import F16, F32, Q8_0, BlockType, dequantize
from ..formats.gguf_decoder import OUTPUT, SOFTCAP, WORD
from ..formats.gguf_file import GgufFile
from ..runtime.native import native_code
from .llama_server import started
from .session import Arrays

FIRST_TOKENS = 512  # of the context that is opened first; longer texts open a longer one
NO_POOLING = 0


class Decoder:
    """A loaded decoder."""

    def __init__(
        self, opened: Path, path: Path, contents: GgufFile, threads: int | None, scratch: Path | None = None
    ) -> None:
        """Load a decoder.

        Args:
            opened: the file that llama.cpp opens.
            path: of the exported file, for messages.
            contents: of the file that is opened.
            threads: processor threads; None lets the engine choose.
            scratch: folder of the opened file that is removed with the session.

        Raises:
            InputFileError: llama.cpp cannot load it, or it lacks what an export has.
        """
        name = contents.metadata.get("general.architecture")
        longest: Any = contents.metadata.get(f"{name}.context_length")
        width: Any = contents.metadata.get(f"{name}.embedding_length")
        table = contents.tensors.get(OUTPUT) or contents.tensors.get(WORD)
        if not all(isinstance(number, int) and number > 0 for number in (longest, width)) or table is None:
            raise InputFileError(f"{path}: lacks length, width or output layer. Export the model again.")
        if table.shape[-1] != width:
            raise InputFileError(f"{path}: its output layer does not fit the width {width}. Export the model again.")
        self._opened, self._path, self._threads = opened, path, threads
        self._longest, self._width = int(longest), int(width)
        self._kind, self._head = table.kind, dequantize(table.kind, table.data)
        bound: Any = contents.metadata.get(f"{name}.{SOFTCAP}")
        self._bound = float(bound) if bound else None
        if scratch is not None:
            weakref.finalize(self, shutil.rmtree, scratch, ignore_errors=True)
        self._open(min(FIRST_TOKENS, self._longest))

    def _open(self, tokens: int) -> None:
        self._tokens, self._key = tokens, secrets.token_hex()
        self._server = started(self._opened, self._path, tokens, self._threads, NO_POOLING, self._key)
        self.states([0])  # closing a server that never answered waits without end

    @native_code()
    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Return the logits of every token, `[B, T, vocabulary]`; 0 where a text is padded."""
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        logits = np.zeros((*ids.shape, len(self._head)), np.float32)
        for row, kept, answer in zip(ids, mask, logits, strict=True):
            answer[kept > 0] = self.logits(self.states(row[kept > 0].tolist()))
        return {"logits": logits}

    def states(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the last states of all tokens of a text, `[T, width]`.

        Args:
            ids: its tokens.
        """
        if len(ids) > self._tokens:
            self._open(min(self._longest, max(len(ids), 2 * self._tokens)))
        answer = self._ask("/embedding", {"content": [list(ids)], "embd_normalize": -1})
        found = answer[0].get("embedding") if isinstance(answer, list) and answer else None
        states = np.asarray(found, np.float32)
        if states.shape != (len(ids), self._width):
            raise UsageError(
                f"`engine` llama-cpp: returned {states.shape} numbers for {len(ids)} tokens. {answer!s:.200}"
            )
        return states

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a text, as llama.cpp reads it.

        Args:
            text: any.
        """
        return [int(token) for token in self._ask("/tokenize", {"content": text, "add_special": True})["tokens"]]

    def logits(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the output layer makes of states, `[T, vocabulary]`.

        Args:
            states: `[T, width]`.
        """
        logits: NDArray[np.float32] = as_read(self._kind, states) @ self._head.T
        return logits if self._bound is None else np.tanh(logits / self._bound) * np.float32(self._bound)

    def _ask(self, path: str, question: Mapping[str, Any]) -> Any:
        """Ask the server over its local port; nothing else knows its key."""
        address = urlsplit(self._server.listening_address)
        connection = http.client.HTTPConnection(str(address.hostname), address.port)
        try:
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
            connection.request("POST", path, json.dumps(question), headers)
            answer = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        if isinstance(answer, dict) and "error" in answer:
            raise UsageError(f"`engine` llama-cpp: {answer['error'].get('message', 'no answer')}.")
        return answer


def as_read(kind: BlockType, states: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return states as the product with a matrix of some type reads them.

    Args:
        kind: of the matrix.
        states: `[T, width]`.
    """
    if kind is F32:
        return states
    if kind is F16:
        return states.astype(np.float16).astype(np.float32)
    blocks = states.reshape(len(states), -1, Q8_0.inputs)
    step = np.abs(blocks).max(2, keepdims=True) / np.float32(127)
    codes = np.rint(np.divide(blocks, step, out=np.zeros_like(blocks), where=step > 0))
    rounded: NDArray[np.float32] = codes * step.astype(np.float16).astype(np.float32)
    return rounded.reshape(states.shape)
