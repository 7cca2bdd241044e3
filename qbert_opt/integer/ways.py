"""The method for each nonlinear function."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..errors import UsageError
from ..runtime.plugins import available


@dataclass(frozen=True, slots=True)
class Ways:
    """The method for each nonlinear function: names of files in `nonlinearities`, or of plug-ins.

    Attributes:
        softmax: method for its exp.
        activation: method for GELU and tanh.
        norm: method for the square root of LayerNorm.
    """

    softmax: str = "table"
    activation: str = "table"
    norm: str = "table"


BY_TABLE = Ways()


def parse_ways(text: str, *others: str) -> Ways:
    """Parse `table`, or `softmax=poly,norm=shift`, where functions that are not named use `table`.

    Args:
        text: one method for all functions, or functions with their methods.
        *others: words that the caller accepts besides, for messages.

    Raises:
        UsageError: a function or a method does not exist.
    """
    functions = [part.name for part in fields(Ways)]
    legal = [*available("nonlinearities"), *others]
    chosen = dict.fromkeys(functions, text) if "=" not in text else {}
    for part in text.split(",") if not chosen else ():
        function, _, name = part.strip().partition("=")
        if function not in functions or not name:
            raise UsageError(f"`nonlinearity` {part!r}: legal: {', '.join(legal)}, or FUNCTION=METHOD for the "
                             f"functions {', '.join(functions)}.")  # fmt: skip
        chosen[function] = name
    for function, name in chosen.items():
        if name not in available("nonlinearities"):
            shown = f"{function}={name}" if "=" in text else name or repr(name)
            raise UsageError(f"`nonlinearity` {shown}: legal: {', '.join(legal)}.")
    return Ways(**chosen)
