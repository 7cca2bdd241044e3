"""The C encoder, compiled as strictly as C99 allows, equal to the reference bit for bit."""

import re
import shutil
import subprocess

import numpy as np
import pytest

from qbert_opt.integer.emitters import c
from qbert_opt.integer.reference import Reference
from qbert_opt.integer.ways import Ways

from .conftest import compiled
from .test_programs import random_inputs

GCC = shutil.which("gcc")
pytestmark = pytest.mark.skipif(GCC is None, reason="no gcc on this machine")
STRICT = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-O2")


def built(program, folder, *flags, max_tokens=None):
    """Write and compile an encoder with its example; returns the executable and what was written."""
    folder.mkdir(exist_ok=True)
    emitted = c.emit(program, folder, max_tokens or program.max_tokens)
    sources = [folder / name for name in emitted.files if name.endswith(".c")]
    result = subprocess.run([GCC, *STRICT, *flags, *sources, "-o", folder / "encoder"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return folder / "encoder", emitted


def asked(executable, rows):
    """The integers that the example prints for rows of token ids."""
    text = "".join(" ".join(map(str, row)) + "\n" for row in rows)
    result = subprocess.run([executable], input=text, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return [np.array(line.split(), np.int64) for line in result.stdout.splitlines()]


def expected(program, rows):
    """The same integers from the reference."""
    reference, answers = Reference(program), []
    for row in rows:
        inputs = {value.name: np.full((1, len(row)), value.name == "attention_mask", int) for value in program.inputs}
        inputs["input_ids"] = np.array([row])
        numbers = reference.run(inputs)
        answers.append(np.concatenate([numbers[name].reshape(-1) for name in sorted(numbers)]))
    return answers


def random_rows(program, seed=3):
    """Rows of token ids without padding, the longest included."""
    return [inputs["input_ids"][0].tolist() for inputs in random_inputs(program, seed)]


@pytest.mark.parametrize("way", ["table", "poly", "shift"])
def test_every_family_answers_bit_for_bit_as_the_reference(family_folder, tmp_path, way):
    folder, texts = family_folder
    program = compiled(folder, texts, Ways(way, way, way))[1].program
    executable, _ = built(program, tmp_path)
    rows = random_rows(program)
    for wanted, answer in zip(expected(program, rows), asked(executable, rows), strict=True):
        assert np.array_equal(wanted, answer)
