"""The strict YAML reader: YAML 1.2's scalars, every refusal one line with file and line, nothing hangs or explodes."""

import json
import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels.device import strict_yaml
from hwmodels.device.strict_yaml import YamlError, parse_yaml

SCALARS = [
    # YAML 1.2.2, section 10.3.2, and what 1.1 makes of the same text
    ("010", 10),
    ("-012", -12),
    ("+7", 7),
    ("0o10", 8),
    ("0xfF", 255),
    ("0b11", "0b11"),
    ("1_000", "1_000"),
    ("1:30", "1:30"),
    ("190:20:30", "190:20:30"),
    ("yes", "yes"),
    ("no", "no"),
    ("on", "on"),
    ("Off", "Off"),
    ("y", "y"),
    ("true", True),
    ("False", False),
    ("tRUE", "tRUE"),
    ("null", None),
    ("~", None),
    ("", None),
    ("nULL", "nULL"),
    ("1e3", 1000.0),
    ("1.", 1.0),
    (".5", 0.5),
    ("-1.5E-3", -0.0015),
    ("1.2.3", "1.2.3"),
    ("1e", "1e"),
    ("e3", "e3"),
    (".inf", math.inf),
    ("-.INF", -math.inf),
    ("inf", "inf"),
    ("nan", "nan"),
    ("2020-01-02", "2020-01-02"),
    ("2020-99-99", "2020-99-99"),
    ("=", "="),
    ("5e-324", 5e-324),
    ("0e999", 0.0),
    ("9" * 300, int("9" * 300)),
    ("'010'", "010"),
    ('"true"', "true"),
    ("١٢", "١٢"),
]


@pytest.mark.parametrize(("text", "value"), SCALARS, ids=[text[:20] or "empty" for text, _ in SCALARS])
@pytest.mark.parametrize("loader", ["libyaml", "python"])
def test_a_scalar_means_what_yaml_1_2_says(monkeypatch, loader, text, value):
    if loader == "python":  # where PyYAML was built without libyaml
        monkeypatch.setattr(strict_yaml, "_Loader", yaml.BaseLoader)
    read = parse_yaml(f"a: {text}\n", "x.yaml").plain()["a"]
    assert (read, type(read)) == (value, type(value))
    assert math.isnan(parse_yaml("a: .NaN", "x.yaml").plain()["a"])


REFUSED = [
    ("a: 1\nb: 2\na: 3\n", "x.yaml:3: found the key 'a' again; legal is each key once (see line 1)"),
    ("a: {b: 1, 'b': 2}\n", "x.yaml:1: found the key 'b' again"),
    ("a: 1\nb: *x\n", "x.yaml:2: found the alias '*x'"),
    ("a: &x 1\n", "x.yaml:1: found the anchor '&x'"),
    ("a: 1\nb:\n  <<: {c: 1}\n", "x.yaml:3: found the merge key '<<'"),
    ("a: !!int 3\n", "x.yaml:1: found the tag '!!int'"),
    ("a: !!python/object:os.system x\n", "x.yaml:1: found the tag '!!python/object:os.system'"),
    ("a: ! 3\n", "x.yaml:1: found the tag '!'"),
    ("!mine {a: 1}\n", "x.yaml:1: found the tag '!mine'"),
    ("a: 1\n---\nb: 2\n", "x.yaml:2: found a second document"),
    ("%YAML 1.1\n---\na: 1\n", "x.yaml:1: found a directive"),
    ("%TAG ! tag:x,2000:\n---\na: 1\n", "x.yaml:1: found a directive"),
    ("a:\n\tb: 1\n", "x.yaml:2: found a tab; legal are spaces"),
    ("a: 1\n? [b]\n: c\n", "x.yaml:2: found a list or mapping as a key"),
    ("a: 1\n~: c\n", "x.yaml:2: found an empty key"),
    ("a: b: c\n", "x.yaml:1: found text that is not YAML (mapping values are not allowed"),
    ("a: {b: 1\n", "x.yaml:2: found text that is not YAML"),
    ("a: 'b\n", "found text that is not YAML"),
    ("a: @b\n", "x.yaml:1: found text that is not YAML"),
    ("", "x.yaml:1: found no values"),
    ("# only a comment\n", "x.yaml:1: found no values"),
    ("a: 1\nb: \x00\n", "x.yaml:2: found a NUL byte"),
    ("a: 1\nb: \x1b[31m\n", "x.yaml:2: found the control character U+001B"),
    ('a: 1\nb: "\\e[31m"\n', "x.yaml:2: found the control character U+001B"),
    ('a: "\\0"\n', "x.yaml:1: found a NUL byte"),
    ('"\\e": 1\n', "x.yaml:1: found the control character U+001B"),
    ("a: \ufeffb\n", "x.yaml:1: found the control character U+FEFF"),
    ("a: x\u2028b: y\n", "x.yaml:1: found the control character U+2028"),
    ("a: " + "9" * 309, "x.yaml:1: found a number of 309 digits; legal is at most 308 digits"),
    ("a: 0x" + "f" * 100_000, "x.yaml:1: found a number of 100000 digits"),
    ("a: 1e999", "x.yaml:1: found 1e999; legal is a number between"),
    ("a: -1e400", "x.yaml:1: found -1e400; legal"),
    ("a: 1e-400", "x.yaml:1: found 1e-400; legal"),
    (b"a: 1\nb: \xff\n", "x.yaml:2: found the byte 0xff, which is not UTF-8"),
    ("a: 1\n".encode("utf-16"), "x.yaml:1: found UTF-16 text"),
    ("a: 1\n".encode("utf-16-le"), "x.yaml:1: found a NUL byte"),
    (b"\x1f\x8b\x08\x00junk", "x.yaml:1: found the byte 0x8b"),
    ("a: " + "b" * 1_000_000, "x.yaml:1: found more than 1000000 bytes"),
    ("[" * 50_000, "x.yaml:1: found deeper nesting; legal is at most 16 levels"),
    ("- " * 50_000 + "x", "x.yaml:1: found deeper nesting"),
    ("a: [" + "1," * 60_000 + "1]\n", "x.yaml:1: found more values; legal is at most 50000"),
    ("a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n", "x.yaml:1: found the anchor '&a'"),
]  # fmt: skip


@pytest.fixture(scope="module")
def largest_calls(calls_of):
    """The work of the largest legal list."""
    return calls_of(lambda: parse_yaml("a: [" + "1," * 49_900 + "1]\n", "x.yaml"))


@pytest.mark.parametrize(("text", "says"), REFUSED, ids=[says[:60] for _, says in REFUSED])
def test_rejections_name_the_line(text, says, calls_of, largest_calls):
    """One line, and no more work than the largest legal file is."""

    def refuse():
        with pytest.raises(YamlError) as refused:
            parse_yaml(text, "x.yaml")
        message = str(refused.value)
        assert says in message and "\n" not in message and "legal" in message and len(message) < 400
        assert message.isprintable()

    assert calls_of(refuse) < 1.2 * largest_calls


def test_every_value_keeps_its_line_and_a_byte_order_mark_is_no_part_of_the_text():
    root = parse_yaml(b"\xef\xbb\xbfa: 1\r\nb:\r\n  - {c: x}\r\n", "x.yaml")
    assert root.plain() == {"a": 1, "b": [{"c": "x"}]}
    assert root.value["a"].place == "x.yaml:1" and root.value["b"].value[0].value["c"].place == "x.yaml:3"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150)
@given(JSON, st.sampled_from([None, 2]))
def test_json_is_read_as_json_reads_it(value, indent):
    """YAML 1.2 contains JSON: the standard library is the second implementation."""
    assert parse_yaml(json.dumps(value, indent=indent), "x.json").plain() == value


@settings(max_examples=300)
@given(st.binary(max_size=60) | st.text("ab01:-{}[],'\"&*!|>%@`#?~<.\t\n \\ex", max_size=60))
def test_any_bytes_are_read_or_refused_in_one_line(text):
    try:
        parse_yaml(text, "x.yaml")
    except YamlError as error:
        message = str(error)
        assert message.startswith("x.yaml:") and "\n" not in message and message.isprintable()
