"""The C encoder, compiled as strictly as C99 allows, equal to the reference bit for bit."""

import ctypes
import shutil
import subprocess

import numpy as np
import pytest

from qbert_opt.errors import UsageError
from qbert_opt.integer.c_calls import comment
from qbert_opt.integer.c_constants import packed_rows
from qbert_opt.integer.emitters import c
from qbert_opt.integer.reference import Reference
from qbert_opt.integer.ways import Ways

from .conftest import compiled
from .small_programs import edge_program, packed_program
from .test_programs import random_inputs

GCC = shutil.which("gcc")
pytestmark = pytest.mark.skipif(GCC is None, reason="no gcc on this machine")
STRICT = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror")
OPTIMIZED = (*STRICT, "-O2")  # as the documentation compiles it
UNDEFINED = ("-fsanitize=undefined", "-fno-sanitize-recover=all", "-O0")  # checks are there before any optimization


def built(program, folder, *flags):
    """Write and compile an encoder with its example; returns the executable and what was written."""
    emitted = c.emit(program, folder, program.max_tokens)
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
        names = dict.fromkeys(output.value for output in program.outputs)
        answers.append(np.concatenate([numbers[name].reshape(-1) for name in names]))
    return answers


def random_rows(program, seed=3):
    """Rows of token ids without padding, the longest included."""
    return [inputs["input_ids"][0].tolist() for inputs in random_inputs(program, seed)]


@pytest.mark.parametrize("way", ["table", "poly", "shift"])
def test_negative_numbers_are_shifted_and_rounded_as_the_reference_does(tmp_path, way):
    program, rows = edge_program(way)
    executable, _ = built(program, tmp_path, *UNDEFINED)
    for wanted, answer in zip(expected(program, rows), asked(executable, rows), strict=True):
        assert np.array_equal(wanted, answer)


@pytest.mark.parametrize(("bits", "shift"), [(1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (8, 0), (2, 18), (8, 30)])
def test_packed_codes_of_every_width_with_rows_of_odd_length(tmp_path, bits, shift):
    program, rows = packed_program(bits, shift)
    executable, emitted = built(program, tmp_path, *UNDEFINED)
    for wanted, answer in zip(expected(program, rows), asked(executable, rows), strict=True):
        assert np.array_equal(wanted, answer)
    row = {1: 4, 2: 4, 3: 8, 4: 8, 5: 15, 8: 15}[bits]  # bytes of 15 codes
    assert emitted.constant_bytes == (40 + 6) * row + 4 * (2 * 40 * 3 + 2 * 6 * 3 + 6)


def test_the_example_reads_lines_as_they_come(tmp_path):
    program, _ = packed_program(4)
    executable, _ = built(program, tmp_path, *UNDEFINED)
    wanted = asked(executable, [[1, 2], [3]])
    for text in ("1 2\n3", "1 2 \n3\n", "1\t2\r\n3\r\n", "\n1  2\n\n3 "):
        result = subprocess.run([executable], input=text.encode(), capture_output=True)
        answers = [np.array(line.split(), np.int64) for line in result.stdout.splitlines()]
        assert result.returncode == 0
        assert [answer.tolist() for answer in answers] == [answer.tolist() for answer in wanted], text
    result = subprocess.run([executable], input="1 2\none 3\n", capture_output=True, text=True)
    assert result.returncode == 2 and "not a number" in result.stderr


def test_names_cannot_end_a_comment():
    assert comment("a*/b/*c") == "/* a* /b/ *c */"


def test_a_text_whose_values_an_int_cannot_count_is_refused(family_folder, tmp_path):
    folder, texts = family_folder
    program = compiled(folder, texts)[1].program
    with pytest.raises(UsageError, match="`emit_tokens` 65536: the values"):
        c.emit(program, tmp_path, 1 << 16)


def test_every_family_answers_bit_for_bit_without_undefined_behaviour(family_folder, tmp_path):
    folder, texts = family_folder
    program = compiled(folder, texts, Ways("shift", "poly", "shift"))[1].program
    executable, _ = built(program, tmp_path, *UNDEFINED)
    rows = random_rows(program)
    for wanted, answer in zip(expected(program, rows), asked(executable, rows), strict=True):
        assert np.array_equal(wanted, answer)


def test_groups_of_columns_with_inputs_of_16_bits(with_16_bits, tmp_path):
    program = compiled(*with_16_bits)[1].program
    executable, _ = built(program, tmp_path, *UNDEFINED)
    rows = random_rows(program)
    for wanted, answer in zip(expected(program, rows), asked(executable, rows), strict=True):
        assert np.array_equal(wanted, answer)


@pytest.fixture(scope="module")
def library(family_folder, tmp_path_factory):
    """A family's encoder as a shared library for at most 16 tokens, and its objects, with what was written."""
    folder, texts = family_folder
    program = compiled(folder, texts)[1].program
    target = tmp_path_factory.mktemp("library")
    emitted = c.emit(program, target, 16)
    sources = [name for name in emitted.files if name.endswith(".c") and name != "main.c"]
    objects = [f"{name[:-2]}.o" for name in sources]
    subprocess.run([GCC, *OPTIMIZED, "-fPIC", "-c", *sources], cwd=target, check=True)
    subprocess.run([GCC, "-shared", *objects, "-o", "encoder.so"], cwd=target, check=True)
    return program, target, emitted


def call(program, path, inputs):
    """The status of `encode`, and the integers of the first output's value."""
    tokens = inputs["input_ids"].shape[-1]
    arrays = [
        np.ascontiguousarray(inputs[value.name], np.uint8 if value.name == "attention_mask" else np.int32)
        for value in program.inputs
    ]
    value = program.values[program.outputs[0].value]
    answer = np.zeros([tokens if axis == "tokens" else axis for axis in value.shape[1:]], np.int32)
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in arrays]
    encode = ctypes.CDLL(str(path)).encode
    return encode(*pointers, ctypes.c_int(tokens), ctypes.c_void_p(answer.ctypes.data)), answer


def test_padding_is_masked_as_in_the_reference(library):
    program, target, _ = library
    for inputs in random_inputs(program, seed=8):
        for row in range(len(inputs["input_ids"])):
            one = {name: array[row : row + 1, :16] for name, array in inputs.items()}
            status, answer = call(program, target / "encoder.so", {name: array[0] for name, array in one.items()})
            assert status == 0
            assert np.array_equal(answer, Reference(program).run(one)[program.outputs[0].value][0])


def test_lengths_and_ids_outside_the_limits_are_refused(library):
    program, target, _ = library
    inputs = {value.name: np.ones(17, int) for value in program.inputs}
    assert call(program, target / "encoder.so", inputs)[0] == 1
    short = {name: array[:4] for name, array in inputs.items()}
    assert call(program, target / "encoder.so", short | {"input_ids": np.array([1, 2, 3, 10**6])})[0] == 2
    assert call(program, target / "encoder.so", short | {"input_ids": np.array([1, -1, 3, 2])})[0] == 2
    assert call(program, target / "encoder.so", short | {"attention_mask": np.array([1, 1, 1, 2])})[0] == 2
    assert call(program, target / "encoder.so", short)[0] == 0


def test_the_stated_memory_is_what_the_object_has(library):
    _, target, emitted = library
    listed = subprocess.run(["nm", "-S", target / "encoder.o"], capture_output=True, text=True, check=True).stdout
    symbols = [line.split() for line in listed.splitlines()]
    assert sum(int(size, 16) for _, size, kind, _ in (s for s in symbols if len(s) == 4) if kind in "bBdD") == (
        emitted.ram_bytes
    )
    undefined = {s[-1] for s in symbols if "U" in s} - {"_GLOBAL_OFFSET_TABLE_"}
    assert all(name.startswith("encoder_c") or name in ("memset", "memcpy") for name in undefined), undefined


def test_the_source_has_no_float_and_allocates_nothing(library):
    _, target, _ = library
    source = (target / "encoder.c").read_text() + (target / "encoder.h").read_text()
    for word in ("float", "double", "malloc", "include <stdlib", "include <math"):
        assert word not in source.replace("no floating point", "")
    bare = ("-ffreestanding", "-mgeneral-regs-only")  # a floating-point operation is an error then
    subprocess.run([GCC, *STRICT, *bare, "-c", target / "encoder.c", "-o", target / "bare.o"], check=True)


ARM = ("arm-none-eabi-gcc", "-mthumb", "-mfloat-abi=soft", *OPTIMIZED)


@pytest.mark.skipif(shutil.which(ARM[0]) is None, reason="no compiler for bare-metal Arm on this machine")
def test_a_bare_metal_compiler_needs_no_floating_point(library):
    _, target, _ = library
    subprocess.run(
        [*ARM, "-mcpu=cortex-m4", "-ffreestanding", "-c", target / "encoder.c", "-o", target / "arm.o"], check=True
    )
    listed = subprocess.run(["nm", "-u", target / "arm.o"], capture_output=True, text=True, check=True).stdout
    called = {line.split()[-1] for line in listed.splitlines()}
    helpers = ("encoder_c", "__aeabi_idiv", "__aeabi_lmul", "__aeabi_llsr", "__aeabi_mem", "memset", "memcpy")
    assert all(name.startswith(helpers) for name in called), called  # helpers for integers only


@pytest.mark.skipif(
    shutil.which(ARM[0]) is None or shutil.which("qemu-arm") is None, reason="no emulator of Arm on this machine"
)
def test_bare_metal_arm_answers_bit_for_bit(with_16_bits, tmp_path):
    program = compiled(*with_16_bits)[1].program
    emitted = c.emit(program, tmp_path, program.max_tokens)
    sources = [tmp_path / name for name in emitted.files if name.endswith(".c")]
    flags = ("-mcpu=cortex-a7", "--specs=rdimon.specs")  # without an operating system; the emulator has the terminal
    subprocess.run([*ARM, *flags, *sources, "-o", tmp_path / "encoder.elf"], check=True)
    rows = random_rows(program)
    text = "".join(" ".join(map(str, row)) + "\n" for row in rows)
    result = subprocess.run(
        ["qemu-arm", tmp_path / "encoder.elf"], input=text, capture_output=True, text=True, check=True
    )
    answers = [np.array(line.split(), np.int64) for line in result.stdout.splitlines()]
    for wanted, answer in zip(expected(program, rows), answers, strict=True):
        assert np.array_equal(wanted, answer)


def test_codes_share_bytes_row_by_row():
    codes = np.array([[-2, 1, 0, -1, 1], [1, 1, 1, 1, -2]], np.int8)
    assert packed_rows(codes, 2).tolist() == [[0b01_10_11_00, 0b11], [0b11_11_11_11, 0b00]]
    assert packed_rows(np.array([[-8, 7, 3]], np.int8), 4).tolist() == [[0xF0, 11]]
