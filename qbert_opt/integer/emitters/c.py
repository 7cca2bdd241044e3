"""C99 without dependencies: no malloc, no float, static memory, weights as arrays.

    encoder.h          the entry function, its limits, and what its integers stand for
    encoder.c          the encoder
    constants.h        declarations of the arrays
    constants_N.c      the arrays
    main.c             an example: token ids on standard input, one text per line

Codes of up to 4 bits are packed in 2 or 4 bits and unpacked row by row; wider codes are int8. Values are stored in 8,
16 or 32 bits, as their proven intervals require, and computed in 32; only the products inside a requantization and
before the shift of a group have 64.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...errors import UsageError
from ..c_calls import Calls, argument, comment, literal
from ..c_constants import Constant
from ..c_kernels import HELPERS
from ..emitter import Emitted
from ..memory import planned_memory
from ..operations import INT32, MASK, TOKENS, Lookup
from ..program import Program

PREFIX = "encoder"
NUMBERS_PER_FILE = 4_000_000
NUMBERS_PER_LINE = 32


def check_usable() -> None:
    """Accept: writing C needs no further package."""


def emit(program: Program, folder: Path, max_tokens: int) -> Emitted:
    """Write the files that the module's description lists.

    Args:
        program: the program to write.
        folder: an existing folder for the files.
        max_tokens: tokens of the longest text, which determine the size of the static memory.

    Raises:
        UsageError: the values of such a text have more elements than a C int counts, or an input or output has no legal
            name in C.
    """
    memory = planned_memory(program, max_tokens)
    if max(memory.elements.values(), default=0) > INT32:
        raise UsageError(
            f"`emit_tokens` {max_tokens}: the values of such a text take {memory.total_bytes:,} bytes, in more "
            "elements than a C int counts. Give fewer tokens."
        )
    calls = Calls(program, memory, PREFIX)
    sums = max(calls.sums[0] * max_tokens, calls.sums[1])
    ram = memory.total_bytes + calls.row_bytes + 4 * sums
    constants = tuple(calls.constants.values())
    (folder / "encoder.h").write_text(_header(program, max_tokens, ram), encoding="ascii", errors="backslashreplace")
    (folder / "encoder.c").write_text(_encoder(program, calls, sums), encoding="ascii", errors="backslashreplace")
    (folder / "main.c").write_text(_example(program), encoding="ascii")
    names = _write_constants(constants, folder)
    tables = {step.table for step in program.operations if isinstance(step, Lookup)}
    return Emitted(
        emitter="c", files=("encoder.h", "encoder.c", "constants.h", *names, "main.c"),
        constant_bytes=sum(constant.array.nbytes for constant in constants),
        table_bytes=sum(constant.array.nbytes for constant in constants if constant.name in tables),
        ram_bytes=ram, max_tokens=max_tokens,
    )  # fmt: skip


def _write_constants(constants: Sequence[Constant], folder: Path) -> list[str]:
    """Write the arrays, a few million numbers per file, and their declarations."""
    declarations = [f"extern {_declaration(constant)}; {comment(constant.name)}" for constant in constants]
    (folder / "constants.h").write_text(
        "\n".join(["#ifndef ENCODER_CONSTANTS_H", "#define ENCODER_CONSTANTS_H", "#include <stdint.h>", "",
                   *declarations, "", "#endif", ""]),
        encoding="ascii", errors="backslashreplace",
    )  # fmt: skip
    parts: list[list[Constant]] = [[]]
    for constant in constants:
        if parts[-1] and sum(other.array.size for other in parts[-1]) + constant.array.size > NUMBERS_PER_FILE:
            parts.append([])
        parts[-1].append(constant)
    names = []
    for index, part in enumerate(parts):
        names.append(f"constants_{index}.c")
        with (folder / names[-1]).open("w", encoding="ascii") as file:
            file.write('#include "constants.h"\n')
            for constant in part:
                flat = constant.array.reshape(-1)
                file.write(f"\n{_declaration(constant)} = {{\n")
                for start in range(0, flat.size, NUMBERS_PER_LINE):
                    file.write(",".join(map(literal, flat[start : start + NUMBERS_PER_LINE].tolist())) + ",\n")
                file.write("};\n")
    return names


def _declaration(constant: Constant) -> str:
    return f"const {constant.ctype} {constant.identifier}[{constant.array.size}]"


def _parameters(program: Program) -> str:
    inputs = ["const uint8_t *mask" if value.name == MASK else f"const int32_t *{argument(value.name)}"
              for value in program.inputs]  # fmt: skip
    outputs = [f"int32_t *{argument(name)}" for name in _results(program)]
    return ", ".join([*inputs, "int tokens", *outputs])


def _results(program: Program) -> list[str]:
    return list(dict.fromkeys(output.value for output in program.outputs))


def _header(program: Program, max_tokens: int, ram: int) -> str:
    values = program.values
    meanings = []
    for output in program.outputs:
        value = values[output.value]
        column = "" if output.column is None else f", column {output.column}"
        shape = " x ".join(map(str, value.shape[1:]))
        meanings.append(f" * {output.name}: {argument(output.value)} [{shape}]{column}; an integer q stands for "
                        f"(q - {value.zero}) * {value.scale or 1.0!r}")  # fmt: skip
    sizes = []
    for name in _results(program):
        axes = ["ENCODER_MAX_TOKENS" if axis == TOKENS else str(axis) for axis in values[name].shape[1:]]
        sizes.append(f"#define ENCODER_{argument(name).upper()}_NUMBERS ({' * '.join(axes)}) /* at most */")
    return "\n".join([
        "/* An integer-only encoder: no floating point, only static memory.", *meanings, " */",
        "#ifndef ENCODER_H", "#define ENCODER_H", "#include <stdint.h>", "",
        f"#define ENCODER_MAX_TOKENS {max_tokens}",
        f"#define ENCODER_RAM_BYTES {ram} /* static memory of encoder.c */", *sizes, "",
        "/* Returns 0, or 1 if the number of tokens is not 1 to ENCODER_MAX_TOKENS, or 2 if an input is out of range.",
        " * mask: 1 for a token, 0 for padding, which is at the end. Not reentrant: the memory is static. */",
        f"int encode({_parameters(program)});", "", "#endif", "",
    ])  # fmt: skip


def _encoder(program: Program, calls: Calls, sums: int) -> str:
    arenas = [f"static int{bits}_t arena{bits}[{count}];" for bits, count in sorted(calls.memory.elements.items())]
    if calls.row_bytes:
        arenas.append(f"static int8_t unpacked_row[{calls.row_bytes}];")
    if sums:
        arenas.append(f"static int32_t group_sums[{sums}];")
    checks = [
        f"        if ({name}[i] > {value.high}{'' if value.name == MASK else f' || {name}[i] < {value.low}'}) return 2;"
        for value in program.inputs
        for name in [argument(value.name)]
    ]
    return "\n".join([
        '#include "encoder.h"', "", '#include "constants.h"', "", *arenas, "", HELPERS, *calls.functions.values(),
        f"int encode({_parameters(program)}) {{", "    const int n = tokens;",
        "    if (n < 1 || n > ENCODER_MAX_TOKENS) return 1;", "    for (int i = 0; i < n; i++) {", *checks, "    }",
        *calls.lines, "    return 0;", "}", "",
    ])  # fmt: skip


def _example(program: Program) -> str:
    """Return a program that reads token ids, one text per line, and prints the integers of the answers."""
    values = program.values
    arrays, fills, passed = [], [], []
    for value in program.inputs:
        name = argument(value.name)
        arrays.append(f"static {'uint8_t' if value.name == MASK else 'int32_t'} {name}[ENCODER_MAX_TOKENS];")
        passed.append(name)
        if name != "ids":
            fills.append(f"            {name}[tokens] = {int(value.name == MASK)};")
    prints = []
    for name in _results(program):
        result = argument(name)
        arrays.append(f"static int32_t {result}[ENCODER_{result.upper()}_NUMBERS];")
        axes = ["tokens" if axis == TOKENS else str(axis) for axis in values[name].shape[1:]]
        prints += [f"            for (int i = 0; i < {' * '.join(axes)}; i++)",
                   f'                printf("%ld ", (long){result}[i]);']  # fmt: skip
    call = ", ".join([*passed, "tokens", *(argument(name) for name in _results(program))])
    return "\n".join([
        "/* Token ids on standard input, one text per line; the integers of its answers on standard output. */",
        "#include <stdio.h>", "", '#include "encoder.h"', "", *arrays, "", "int main(void) {",
        "    int tokens = 0, status = 0, found, after;", "    long id;",
        '    while ((found = scanf("%ld", &id)) == 1) {', "        if (tokens < ENCODER_MAX_TOKENS) {",
        "            ids[tokens] = (int32_t)id;", *fills, "        }", "        tokens++;",
        "        do after = getchar();", "        while (after == ' ' || after == '\\t' || after == '\\r');",
        "        if (after != '\\n' && after != EOF) {", "            ungetc(after, stdin);", "            continue;",
        "        }",
        f"        status = encode({call});", "        if (status != 0) {",
        '            fprintf(stderr, "refused: %d tokens, status %d\\n", tokens, status);',
        "            return status;",
        "        }", "        {", *prints, "        }", '        printf("\\n");', "        tokens = 0;", "    }",
        "    if (found != EOF) {", '        fprintf(stderr, "refused: not a number\\n");', "        return 2;", "    }",
        "    return 0;", "}", "",
    ])  # fmt: skip
