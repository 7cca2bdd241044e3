"""One plan for several engines: only choices that all of them store as the same codes, so one calibration serves all.

A code is the same everywhere if it is a two's-complement integer times a scale, without an offset or a zero point:
{-2, -1, 0, 1} at 2 bits, which is LiteRT's int2 and the default zero point of ONNX Runtime; -7 to 7 at 4 bits, because
some kernels compute -8 wrongly; -127 to 127 at 8 bits. Moreover, no engine may widen the code or refuse the grouping.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ..engines.file_law import FilePart
from ..engines.rules import EngineRules, Product
from ..engines.session import rules_of
from ..errors import UsageError
from ..runtime.plugins import available
from ..spec.choices import Choice
from ..spec.forms import Form
from ..spec.profiles import MatrixSpec, ModelProfile, TableSpec
from .engine_target import EngineTarget, engine_target

PORTABLE_FORMS: dict[int, Form] = {2: "signed", 4: "symmetric", 8: "symmetric"}
"""The form that every engine stores as the same codes, by bit width of a matrix."""
ALL = "all"


@dataclass(frozen=True, slots=True)
class PortableTarget(EngineTarget):
    """Several engines as the target of one plan: a choice that one of them refuses is refused.

    Each matrix is counted with its size in the engine whose file needs most for it, so no engine's file is larger than
    the sum.

    Attributes:
        members: the engines.
    """

    members: tuple[EngineTarget, ...] = ()

    @property
    def engines(self) -> tuple[str, ...]:
        """Names of the engines."""
        return tuple(member.name for member in self.members)

    @property
    def said(self) -> str:
        """The user's option and its value, for messages."""
        return f"`portable` {self.name}"

    @property
    def held(self) -> str:
        """How all engines can store matrices, in a few words."""
        forms = ", ".join(f"{bits} bits {form}" for bits, form in PORTABLE_FORMS.items())
        return f"{forms}, in groupings that each engine supports"

    @property
    def whole_tables(self) -> tuple[str, ...]:
        """Names of the engines that store a table as a whole and cannot split it into tiers."""
        return tuple(name for member in self.members for name in member.whole_tables)

    @property
    def leaves_inputs(self) -> bool:
        """Whether there is no rounding of inputs that every engine can run as planned."""
        return not self.rules.static_bits and not self.rules.token_bits

    def part(self, item: MatrixSpec | TableSpec, choice: Choice, heads: int) -> FilePart | None:
        """Return how a matrix or table is stored in the file that needs most bytes for it.

        Args:
            item: shape and role.
            choice: how it is stored.
            heads: attention heads of the model, for `rows:heads`.
        """
        parts = [part for member in self.members if (part := member.part(item, choice, heads)) is not None]
        return max(parts, key=lambda part: part.bytes, default=None)

    def node_bytes(self, item: MatrixSpec | TableSpec, choice: Choice) -> int:
        """Return the bytes of the graph's nodes that depend on the choice, in the engine that needs most.

        Args:
            item: shape and role.
            choice: how it is stored.
        """
        return max(member.node_bytes(item, choice) for member in self.members)

    def other_bytes(self, profile: ModelProfile) -> int | None:
        """Return the bytes of everything except matrices and tables, in the file that needs most.

        Args:
            profile: the model.
        """
        found = [size for member in self.members if (size := member.other_bytes(profile)) is not None]
        return max(found, default=None)

    def refusal(self, item: MatrixSpec | TableSpec, choice: Choice) -> str | None:
        """Return which engine cannot store an item's choice as the shared codes, and why; None if all can.

        Args:
            item: shape and role.
            choice: how it is stored.
        """
        if isinstance(item, MatrixSpec) and PORTABLE_FORMS.get(choice.bits) != choice.form:
            return f"{choice.bits} bits of form {choice.form}; codes that every engine shares have {self.held}"
        for member in self.members:
            reason = member.refusal(item, choice)
            if reason is not None:
                return f"{member.name}: {reason}"
            part = member.part(item, choice, heads=1)
            if part is not None and part.bits != choice.bits:
                return f"{member.name}: {choice.bits} bits in {choice.grouping}; it stores {part.bits} bits there"
        return None

    def lost_widths(self, scored: Iterable[Choice]) -> str | None:
        """Return which bit widths are lost because they were scored in other forms only, and what to do; None if none.

        Args:
            scored: choices scored for matrices.
        """
        forms: dict[int, set[str]] = {}
        for choice in scored:
            forms.setdefault(choice.bits, set()).add(choice.form)
        lost = [bits for bits, form in PORTABLE_FORMS.items() if form not in forms.get(bits, {form})]
        if not lost:
            return None
        needed = " and ".join(f"{bits} bits of form {PORTABLE_FORMS[bits]}" for bits in lost)
        found = ", ".join(sorted(set().union(*(forms[bits] for bits in lost))))
        return f"{self.said}: needs {needed}, but scored is {found}: no matrix gets that width. Score it too (`forms`)."

    def width_refusal(self, item: MatrixSpec | TableSpec) -> str | None:
        """Return which engine cannot run a matrix of this width with any choice; None if some choice may work.

        Args:
            item: shape and role.
        """
        reasons = {member.name: member.width_refusal(item) for member in self.members}
        return next((f"{reason} in {name}" for name, reason in reasons.items() if reason is not None), None)

    def arithmetic(self, choice: Choice | None, input_bits: int | None = None) -> Literal["fp32", "fp16"] | None:
        """Return the floating-point type of a product in an engine that does not run it in integers; None if all do.

        Args:
            choice: how its weights are stored; None for a product of two activations.
            input_bits: width of its inputs; None for the width that an engine rounds them to by itself.
        """
        types = [member.arithmetic(choice, input_bits) for member in self.members]
        return next((kind for kind in types if kind is not None), None)


def plan_target(
    engine: str | None, portable: Sequence[str] | None = None, static_inputs: Iterable[str] = ()
) -> EngineTarget | None:
    """Return what a plan is made for: one engine, several, or none.

    Args:
        engine: one engine, or several joined by commas, as the file of a portable plan records them.
        portable: engines that shall all store the same codes; `all` is every engine that stores 2, 4 and 8 bits.
        static_inputs: modules of matrices whose inputs have a static range.

    Raises:
        UsageError: an engine is unknown or opens the quantized folder itself, or both options are given.
    """
    static = frozenset(static_inputs)
    if portable is None:
        if engine is None or "," not in engine:
            return engine_target(engine, static)
        portable = engine.split(",")
    elif engine is not None:
        raise UsageError("`portable`: makes a plan for several engines. Leave `engine` out.")
    members = tuple(EngineTarget(name, rules_of(name), static) for name in portable_engines(portable))
    return PortableTarget(",".join(m.name for m in members), _common(members), static, members)


def portable_engines(names: Sequence[str]) -> tuple[str, ...]:
    """Return the engines of a portable plan.

    Args:
        names: names of engines; `all` is every engine with its own file format that stores 2, 4 and 8 bits.

    Raises:
        UsageError: an engine is unknown or opens the quantized folder itself, or there are fewer than two.
    """
    if tuple(names) == (ALL,):
        return tuple(name for name in available("engines") if _holds_all(rules_of(name)))
    for name in names:
        if rules_of(name).file is None:
            raise UsageError(f"`portable` {name}: opens the quantized folder itself, so every plan is portable to it.")
    distinct = tuple(sorted(set(names)))
    if len(distinct) < 2:
        raise UsageError(
            f"`portable` {','.join(names)}: needs two engines or more, or {ALL}. For one engine give `engine`."
        )
    return distinct


def engines_of_width(columns: int) -> tuple[str, ...]:
    """Return the engines with their own file format that can store a matrix of this width.

    Args:
        columns: inputs of the matrix.
    """
    found = {name: rules_of(name) for name in available("engines")}
    return tuple(
        name
        for name, rules in found.items()
        if rules.file is not None and not rules.planning_only and rules.width_refusal(columns) is None
    )


def _holds_all(rules: EngineRules) -> bool:
    choices = [Choice(bits, "rows:each", "rtn", form) for bits, form in PORTABLE_FORMS.items()]
    return rules.file is not None and all(rules.refusal(c) is None for c in choices)


def _common(members: Sequence[EngineTarget]) -> EngineRules:
    """Return the integer products and static inputs that all engines support, and the widest tensors that one keeps.

    Everything else is checked engine by engine.
    """
    products: tuple[Product, ...] = ("gemm", "matmul")
    widths = {kind: _shared(m.rules.integer_inputs.get(kind, ()) for m in members) for kind in products}
    return EngineRules(
        bits=tuple(PORTABLE_FORMS),
        forms=tuple(dict.fromkeys(PORTABLE_FORMS.values())),
        integer_inputs={kind: shared for kind, shared in widths.items() if shared},
        activation_bits=max((m.rules.activation_bits for m in members if m.rules.activation_bits), default=None),
        static_bits=_shared(m.rules.static_bits for m in members),
        token_bits=_shared(m.rules.token_bits for m in members),
        static_expands=all(m.rules.static_expands for m in members),
    )


def _shared(widths: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(sorted(set.intersection(*map(set, widths))))
