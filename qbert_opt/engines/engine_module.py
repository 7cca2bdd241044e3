"""A session of an engine with the interface of a torch model, so that code that measures models can measure engines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .session import Session


class _EngineModule(nn.Module):
    """Forward passes of a session; takes and returns tensors as the torch model does."""

    def __init__(self, session: Session, inputs: Sequence[str], config: Any) -> None:
        super().__init__()
        self._session, self._inputs, self.config = session, tuple(inputs), config

    def forward(self, **arrays: torch.Tensor) -> Any:
        from transformers.utils.generic import ModelOutput

        answers = self._session.run({name: arrays[name].numpy() for name in self._inputs})
        return ModelOutput({name: torch.from_numpy(array) for name, array in answers.items()})


def engine_module(session: Session, inputs: Sequence[str], config: Any, architecture: str) -> nn.Module:
    """Return a module that answers by an engine.

    Args:
        session: the open engine.
        inputs: names of its token arrays.
        config: the model's, as transformers has it.
        architecture: name of the model's class: whoever asks what kind of head this is looks at it.
    """
    named: type[nn.Module] = type(architecture, (_EngineModule,), {})
    return named(session, inputs, config).eval()
