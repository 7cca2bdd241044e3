"""One strict reader of YAML: the scalars of YAML 1.2's core schema, every value with its line, no conveniences.

YAML 1.1 reads `010` as 8, `yes` as true, `1:30` as 90 and `1_000` as 1000; here, as in YAML 1.2 (section 10.3.2), the
first is ten and the others are text. Tags, aliases, merge keys, duplicate keys and further documents are refused by
line, and so is whatever does not fit: bytes that are not UTF-8, control characters, numbers beyond a double, more than
1 MB, 50,000 values or 16 levels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

MAX_BYTES = 1_000_000
MAX_VALUES = 50_000
MAX_DEPTH = 16
MAX_DIGITS = 308  # what a double holds

_Loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_ILLEGAL = re.compile("[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_NULLS = ("", "~", "null", "Null", "NULL")
_WORDS: dict[str, object] = {
    **dict.fromkeys(_NULLS),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((sign + word for sign in ("", "+") for word in (".inf", ".Inf", ".INF")), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_INTEGER = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")


class YamlError(ValueError):
    """A YAML text that the strict reader refuses: "file:line: found ...; legal is ...; what to do"."""


@dataclass(frozen=True, slots=True)
class Located:
    """A value of a file and its place "file:line".

    Attributes:
        value: a scalar, a list of `Located`, or a dict of `Located` whose keys are text.
        place: where it starts.
    """

    value: Any
    place: str

    def plain(self) -> Any:
        """Return the value without its places."""
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value


def parse_yaml(text: bytes | str, file: str) -> Located:
    """Read one YAML document.

    Args:
        text: the whole file; bytes must be UTF-8, with or without a byte order mark.
        file: its name, for messages.

    Returns:
        The document's root. Keys of mappings are the text that was written; values are None, bool, int, float or str.

    Raises:
        YamlError: anything that is not one plain YAML 1.2 document within the limits of this module.
    """
    if len(text) > MAX_BYTES:
        raise YamlError(f"{file}:1: found more than {MAX_BYTES} bytes; legal is a short text file; check the path")
    characters = _decoded(text, file) if isinstance(text, bytes) else text
    characters = characters.removeprefix("\ufeff")
    illegal = _ILLEGAL.search(characters)
    if illegal is not None:
        line = characters.count("\n", 0, illegal.start()) + 1
        raise YamlError(f"{file}:{line}: found {_character(illegal[0])}; legal is printable text; remove it")
    try:
        return _Document(characters, file).root()
    except yaml.MarkedYAMLError as error:
        raise YamlError(_syntax_error(error, characters, file)) from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())[:200]
        raise YamlError(f"{file}:1: found text that is not YAML ({reason}); legal is YAML 1.2; correct it") from None


def _decoded(raw: bytes, file: str) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise YamlError(f"{file}:1: found UTF-16 text; legal is UTF-8; save the file as UTF-8")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise YamlError(
            f"{file}:{line}: found the byte 0x{raw[error.start]:02x}, which is not UTF-8 text; legal is UTF-8; "
            "save the file as UTF-8"
        ) from None


def _character(character: str) -> str:
    return "a NUL byte" if character == "\0" else f"the control character U+{ord(character):04X}"


def _syntax_error(error: yaml.MarkedYAMLError, text: str, file: str) -> str:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line, mark.column) if mark else (0, 0)
    place = f"{file}:{line + 1}"
    written = text.split("\n")[line] if line < text.count("\n") + 1 else ""
    if "\t" in written[: column + 1]:
        return f"{place}: found a tab; legal are spaces for indentation; replace it"
    reason = ", ".join(str(part) for part in (error.context, error.problem) if part)
    todo = "put text that holds ': ' in quotes" if "mapping values" in reason else "correct it"
    return f"{place}: found text that is not YAML ({reason}); legal is YAML 1.2; {todo}"


class _Dumper(yaml.SafeDumper):
    """Writes text in quotes wherever YAML 1.1 or 1.2 would take it for something else; no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write shared values out."""
        return True


for _pattern in (_INTEGER, _OCTAL, _HEXADECIMAL, _FLOAT):
    _Dumper.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(f"(?:{_pattern.pattern})$"), list("-+.0123456789")
    )


def dump_yaml(value: dict[str, Any]) -> str:
    """Return YAML text that `parse_yaml` parses to the same value.

    Args:
        value: nested dicts, lists and scalars; keys become text.
    """
    return str(
        yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
    )


class _Document:
    """The events of one text, turned into values; recursion is bounded by `MAX_DEPTH`."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self.count = 0
        self.depth = 0
        self.events: Iterator[Any] = yaml.parse(text, Loader=_Loader)

    def root(self) -> Located:
        """Return the one document of the text."""
        event = self._next()  # the start of the stream
        event = self._next()
        if isinstance(event, yaml.StreamEndEvent):
            raise YamlError(f"{self.file}:1: found no values; legal is one YAML document; write it")
        if event.tags or event.version not in (None, (1, 2)):
            raise self._refusal(event, "a directive", "YAML 1.2 without directives", "remove the line")
        root = self._value(self._next())
        self._next()  # the end of the document
        event = self._next()
        if not isinstance(event, yaml.StreamEndEvent):
            raise self._refusal(event, "a second document", "one document in a file", "remove what follows '---'")
        return root

    def _next(self) -> Any:
        event = next(self.events)
        self.count += 1
        self.depth += isinstance(event, yaml.CollectionStartEvent)
        self.depth -= isinstance(event, yaml.CollectionEndEvent)
        if self.depth > MAX_DEPTH:
            raise self._refusal(event, "deeper nesting", f"at most {MAX_DEPTH} levels", "check the file")
        if self.count > MAX_VALUES:
            raise self._refusal(event, "more values", f"at most {MAX_VALUES} of them", "shorten the file")
        return event

    def _value(self, event: Any) -> Located:
        self._refuse_extras(event)
        place = self._place(event)
        if isinstance(event, yaml.ScalarEvent):
            return Located(self._scalar(event), place)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Located] = []
            while not isinstance(event := self._next(), yaml.SequenceEndEvent):
                items.append(self._value(event))
            return Located(items, place)
        fields: dict[str, Located] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._key(event)
            if key in fields:
                first = fields[key].place.rpartition(":")[2]
                raise self._refusal(event, f"the key {key!r} again", f"each key once (see line {first})", "remove one")
            fields[key] = self._value(self._next())
        return Located(fields, place)

    def _key(self, event: Any) -> str:
        self._refuse_extras(event)
        if not isinstance(event, yaml.ScalarEvent):
            raise self._refusal(event, "a list or mapping as a key", "text", "write a name")
        if not event.style and event.value == "<<":
            raise self._refusal(event, "the merge key '<<'", "plain fields", "write the fields out")
        if not event.style and event.value in _NULLS:
            raise self._refusal(event, "an empty key", "text", "write a name")
        return self._text(event)

    def _refuse_extras(self, event: Any) -> None:
        """Refuse aliases, anchors and tags."""
        if isinstance(event, yaml.AliasEvent):
            raise self._refusal(event, f"the alias '*{event.anchor}'", "plain values", "write the value out")
        if event.anchor is not None:
            raise self._refusal(event, f"the anchor '&{event.anchor}'", "plain values", "remove it")
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            raise self._refusal(event, f"the tag {tag[:60]!r}", "values without tags", "remove it")

    def _scalar(self, event: Any) -> object:
        """Return what a scalar means in the core schema of YAML 1.2; what is quoted or in a block is text."""
        text = event.value
        if event.style:
            return self._text(event)
        if text in _WORDS:
            return _WORDS[text]
        if _OCTAL.fullmatch(text):
            return self._integer(event, text[2:], 8)
        if _HEXADECIMAL.fullmatch(text):
            return self._integer(event, text[2:], 16)
        if _INTEGER.fullmatch(text):
            return self._integer(event, text, 10)
        if _FLOAT.fullmatch(text):
            return self._float(event, text)
        return self._text(event)

    def _integer(self, event: Any, digits: str, base: int) -> int:
        if len(digits) > MAX_DIGITS:
            raise self._refusal(
                event, f"a number of {len(digits)} digits", f"at most {MAX_DIGITS} digits", "correct it"
            )
        return int(digits, base)

    def _float(self, event: Any, text: str) -> float:
        number = float(text)
        is_zero = not any(digit in "123456789" for digit in re.split("[eE]", text)[0])
        if number in (float("inf"), float("-inf")) or (number == 0 and not is_zero):
            raise self._refusal(event, f"{text[:40]}", "a number between 5e-324 and 1.8e308", "correct it")
        return number

    def _text(self, event: Any) -> str:
        """Return a scalar's text; escapes in quotes may not smuggle in what the file itself may not hold."""
        illegal = _ILLEGAL.search(event.value)
        if illegal is not None:
            raise self._refusal(event, _character(illegal[0]), "printable text", "remove it")
        return str(event.value)

    def _place(self, event: Any) -> str:
        return f"{self.file}:{event.start_mark.line + 1}"

    def _refusal(self, event: Any, found: str, legal: str, todo: str) -> YamlError:
        return YamlError(f"{self._place(event)}: found {found}; legal is {legal}; {todo}")
