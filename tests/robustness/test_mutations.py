"""Damaged files through the readers of the command line: a right answer or one clear line, never another exception."""

import pytest
from damaged_readers import attempt, readers

NAMES = (
    "source model", "scoring a source model", "scores", "plan", "measured points", "progress", "device",
    "quantized folder", "engine folder", "data", "vocabulary", "config",
)  # fmt: skip
CASES = {
    "source model": 120,
    "scoring a source model": 25,
    "quantized folder": 40,
    "device": 60,
    "config": 60,
    "data": 60,
    "vocabulary": 60,
}


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """All readers with undamaged examples."""
    return readers(tmp_path_factory.mktemp("robustness"))


@pytest.mark.parametrize("kind", NAMES)
def test_a_damaged_file_is_answered_or_refused(examples, kind):
    """Every reader of a kind reads its good example, and meets each damaged one with an answer or one line."""
    chosen = [reader for reader in examples if reader.name == kind or reader.name.split(" ")[0] == kind]
    assert chosen
    for reader in chosen:
        reader.check(reader.read(reader.path))
        outcomes = [attempt(reader, seed) for seed in range(CASES.get(kind, 150))]
        failures = [f"{reader.name}, seed {seed}: {o.words}" for seed, o in enumerate(outcomes) if o.kind == "failure"]
        assert not failures, "\n".join(failures[:5])
        if kind != "progress":  # damaged lines of progress are done again, with a warning
            assert any(o.kind == "refusal" for o in outcomes)
