"""Which way computes which nonlinear function."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..errors import UsageError
from ..runtime.plugins import available


@dataclass(frozen=True, slots=True)
class Ways:
    """Which way computes which nonlinear function: names of `nonlinearities`."""

    softmax: str = "table"
    activation: str = "table"
    norm: str = "table"


BY_TABLE = Ways()


def parse_ways(text: str, *others: str) -> Ways:
    """Read `table`, or `softmax=poly,norm=shift`, where functions that are not named are computed by table.

    Args:
        text: one name of a way, or functions with theirs.
        *others: words that the caller reads itself, for messages.

    Raises:
        UsageError: a function or way that does not exist.
    """
    functions = [part.name for part in fields(Ways)]
    legal = [*available("nonlinearities"), *others]
    chosen = dict.fromkeys(functions, text) if "=" not in text else {}
    for part in text.split(",") if not chosen else ():
        function, _, name = part.strip().partition("=")
        if function not in functions or not name:
            raise UsageError(f"`nonlinearity` {part!r}: legal: {', '.join(legal)}, or FUNCTION=WAY for the functions "
                             f"{', '.join(functions)}.")  # fmt: skip
        chosen[function] = name
    for function, name in chosen.items():
        if name not in available("nonlinearities"):
            shown = f"{function}={name}" if "=" in text else name or repr(name)
            raise UsageError(f"`nonlinearity` {shown}: legal: {', '.join(legal)}.")
    return Ways(**chosen)
