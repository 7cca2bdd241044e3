"""llama.cpp's server on a file, in this process."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from ..errors import InputFileError


def started(opened: Path, path: Path, tokens: int, threads: int | None, pooling: int, key: str | None = None) -> Any:
    """Start a server that answers with states.

    Args:
        opened: the file that llama.cpp opens.
        path: of the exported file, for messages.
        tokens: of the longest text.
        threads: processor threads; None lets the engine choose.
        pooling: of the states, as llama.cpp numbers it; 0 is none: each token has its own.
        key: that requests over its port must have; None draws one that nobody knows.

    Raises:
        InputFileError: llama.cpp cannot load the file.
    """
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(opened)
    settings.embedding = True
    settings.embd_normalize = -1  # as they are
    settings.pooling_type = xllamacpp.llama_pooling_type(pooling)
    settings.n_ctx = settings.n_batch = settings.n_ubatch = tokens
    settings.n_parallel = 1
    settings.n_gpu_layers = 0
    settings.warmup = False
    settings.verbosity = -1
    for processors in (settings.cpuparams, settings.cpuparams_batch):
        processors.poll = 0  # waiting threads sleep: on a busy machine, busy waiting takes seconds
        processors.n_threads = threads or -1
    settings.api_keys = [key or secrets.token_hex()]  # it listens on a local port, where nobody else shall ask
    try:
        return xllamacpp.Server(settings)
    except RuntimeError as error:
        raise InputFileError(f"{path}: llama.cpp cannot load it: {error} Export the model again.") from None
