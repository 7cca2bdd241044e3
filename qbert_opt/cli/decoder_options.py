"""The options of a decoder's workload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from .options import HARDWARE

if TYPE_CHECKING:
    from ..costs.workload import Workload
    from ..spec.profiles import ModelProfile


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """The cache of keys and values of a decoder."""

    context: Annotated[
        int | None,
        typer.Option(
            "--context",
            min=1,
            help="Tokens in a decoder's full cache, prompt and answer; by default 1024, or its maximum if less.",
            rich_help_panel=HARDWARE,
        ),
    ] = None
    cache_bits: Annotated[
        str | None,
        typer.Option(
            "--cache-bits",
            help="Bits of keys and values in a decoder's cache: 16, 8 or 4 (below 16 with an fp16 scale per head and "
            "token). If the scores include the cache, solve chooses among those given, or among all; otherwise the "
            "cache has 16 bits, or the width given.",
            rich_help_panel=HARDWARE,
        ),
    ] = None

    def widths(self) -> tuple[int, ...] | None:
        """Return the bits that the cache may take; None where the user gave none.

        Raises:
            UsageError: a width that a cache cannot have.
        """
        from ..spec.cache import parse_cache_bits

        return None if self.cache_bits is None else parse_cache_bits(self.cache_bits)

    def workload(self, profile: ModelProfile, seq_len: int | None, batch_size: int) -> Workload:
        """Return the sentences and tokens of one inference; several widths of the cache are left to the program.

        Args:
            profile: the model.
            seq_len: tokens per sentence; None is the default.
            batch_size: sentences per inference.

        Raises:
            UsageError: more tokens than the model has positions for, or a cache for an encoder.
        """
        from ..costs.workload import workload_of

        bits = (self.widths() or (None,))[0]
        return workload_of(profile, seq_len, batch_size, context=self.context, cache_bits=bits)

    def one_width(self) -> None:
        """Refuse several widths where nothing chooses between them.

        Raises:
            UsageError: names the option.
        """
        from ..errors import UsageError

        if len(self.widths() or ()) > 1:
            raise UsageError(f"--cache-bits {self.cache_bits}: solve chooses between widths. Give one of them here.")
