"""C99 functions for the operations of a program, one for each combination of element types that occurs.

A floor shift never applies `>>` to a negative number, which C leaves to the compiler: 64-bit products are raised by
2**62 and shifted as unsigned numbers, and negative 32-bit numbers are complemented before and after the shift.
"""

from __future__ import annotations

from string import Template

HELPERS = """\
#define LIFT ((uint64_t)1 << 62) /* above every product, which has fewer than 62 bits */

static inline int32_t floor_shift(int32_t v, int by) { return v >= 0 ? v >> by : ~(~v >> by); }

static inline int32_t round_shift(int64_t v, int by) {
    return (int32_t)((int64_t)((uint64_t)(v + ((int64_t)1 << (by - 1)) + (int64_t)LIFT) >> by) - (int64_t)(LIFT >> by));
}
"""

UNPACK = Template("""\
static const int8_t *unpacked$bits(const uint8_t *packed, int columns) {
    for (int c = 0; c < columns; c++)
        unpacked_row[c] = (int8_t)(((packed[c / $per_byte] >> ($bits * (c % $per_byte))) & $mask) - $middle);
    return unpacked_row;
}
""")

PAIR = Template("""\
static void $name(const $A *a, const $B *b, $Y *y, int rows, int columns$parameters) {
$prepared    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) {
            const int32_t p = a[$at_a], q = b[$at_b];
            $result
        }
}
""")

BINARY = {
    "add": "p + q",
    "subtract": "p - q",
    "multiply": "p * q",
    "divide": "p / q",
    "remainder": "p % q",
    "maximum": "p > q ? p : q",
    "minimum": "p < q ? p : q",
    "shift": "floor_shift(p, q)",
}
SATURATING = """\
const int64_t v = (int64_t)((uint64_t)((int64_t)p * q + rounding + (int64_t)LIFT) >> shift) + origin;
            y[r * columns + c] = ($Y)(v < low ? low : v > high ? high : v);"""
REQUANTIZE_PARAMETERS = ", int shift, int32_t zero, int32_t low, int32_t high"
REQUANTIZE_PREPARED = """\
    const int64_t rounding = shift > 0 ? (int64_t)1 << (shift - 1) : 0;
    const int64_t origin = (int64_t)zero - (int64_t)(LIFT >> shift);
"""

KERNELS = {
    "lookup": Template("""\
static void $name(const $A *a, const $B *table, $Y *y, int count, int32_t start) {
    for (int i = 0; i < count; i++)
        y[i] = ($Y)table[a[i] - start];
}
"""),
    "mask": Template("""\
static void $name(const $A *a, const $B *mask, $Y *y, int rows, int columns, int32_t fill) {
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++)
            y[r * columns + c] = ($Y)(mask[c] ? a[r * columns + c] : fill);
}
"""),
    "sum": Template("""\
static void $name(const $A *a, $Y *y, int rows, int columns) {
    for (int r = 0; r < rows; r++) {
        int32_t total = 0;
        for (int c = 0; c < columns; c++)
            total += a[r * columns + c];
        y[r] = ($Y)total;
    }
}
"""),
    "max": Template("""\
static void $name(const $A *a, $Y *y, int rows, int columns) {
    for (int r = 0; r < rows; r++) {
        int32_t greatest = a[r * columns];
        for (int c = 1; c < columns; c++)
            greatest = a[r * columns + c] > greatest ? a[r * columns + c] : greatest;
        y[r] = ($Y)greatest;
    }
}
"""),
    "square_root": Template("""\
static void $name(const $A *a, $Y *y, int count, uint32_t start, int steps) {
    for (int i = 0; i < count; i++) {
        const uint32_t v = (uint32_t)a[i];
        uint32_t x = start;
        if (start == 0) /* the least power of two above the root */
            for (int half = 0; half < 16; half++)
                x = v >= (uint32_t)1 << (2 * half) ? (uint32_t)2 << half : x;
        for (int step = 0; step < steps; step++) {
            const uint32_t next = (x + v / x) / 2;
            x = next < x ? next : x;
        }
        y[i] = ($Y)x;
    }
}
"""),
    "split": Template("""\
static void $name(const $A *a, $Y *y, int tokens, int heads, int width) {
    for (int h = 0; h < heads; h++)
        for (int t = 0; t < tokens; t++)
            for (int d = 0; d < width; d++)
                y[(h * tokens + t) * width + d] = ($Y)a[(t * heads + h) * width + d];
}
"""),
    "merge": Template("""\
static void $name(const $A *a, $Y *y, int tokens, int heads, int width) {
    for (int h = 0; h < heads; h++)
        for (int t = 0; t < tokens; t++)
            for (int d = 0; d < width; d++)
                y[(t * heads + h) * width + d] = ($Y)a[(h * tokens + t) * width + d];
}
"""),
    "first": Template("""\
static void $name(const $A *a, $Y *y, int columns) {
    for (int c = 0; c < columns; c++)
        y[c] = ($Y)a[c];
}
"""),
    "positions": Template("""\
static void $name(const $A *ids, $Y *y, int tokens, int32_t padding, int counts) {
    int32_t counted = padding;
    for (int t = 0; t < tokens; t++) {
        counted += ids[t] != padding;
        y[t] = ($Y)(!counts ? t : ids[t] != padding ? counted : padding);
    }
}
"""),
    "relative": Template("""\
static void $name(const $A *table, $Y *y, int tokens, int middle) {
    for (int i = 0; i < tokens; i++)
        for (int j = 0; j < tokens; j++)
            y[i * tokens + j] = ($Y)table[j - i + middle];
}
"""),
    "matmul": Template("""\
static void $name(const $A *a, const $B *b, $Y *y, int heads, int rows, int inner, int columns) {
    for (int h = 0; h < heads; h++, a += rows * inner, b += inner * columns, y += rows * columns)
        for (int i = 0; i < rows; i++) {
            for (int j = 0; j < columns; j++)
                y[i * columns + j] = 0;
            for (int k = 0; k < inner; k++)
                for (int j = 0; j < columns; j++)
                    y[i * columns + j] = ($Y)(y[i * columns + j] + (int32_t)a[i * inner + k] * b[k * columns + j]);
        }
}
"""),
    "matmul_transposed": Template("""\
static void $name(const $A *a, const $B *b, $Y *y, int heads, int rows, int inner, int columns) {
    for (int h = 0; h < heads; h++, a += rows * inner, b += inner * columns, y += rows * columns)
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < columns; j++) {
                int32_t total = 0;
                for (int k = 0; k < inner; k++)
                    total += (int32_t)a[i * inner + k] * b[j * inner + k];
                y[i * columns + j] = ($Y)total;
            }
}
"""),
    "embed": Template("""\
static void $name(const $A *index, const $B *codes, const int32_t *factors, const int32_t *offsets, $Y *y, int tokens,
                  int columns, int row_bytes, int groups, int shift) {
    const int size = columns / groups;
    const int32_t rounding = shift > 0 ? (int32_t)1 << (shift - 1) : 0;
    for (int t = 0; t < tokens; t++) {
        const int8_t *row = $row;
        for (int c = 0; c < columns; c++) {
            const int at = (int)$source * groups + c / size;
            y[t * columns + c] = ($Y)floor_shift(row[c] * factors[at] + offsets[at] + rounding, shift);
        }
    }
}
"""),
    "linear": Template("""\
static void $name(const $A *x, const $B *codes, const int32_t *factors, const int32_t *bias, $Y *y, int tokens,
                  int rows, int columns, int row_bytes, int groups$parameters) {
    const int size = columns / groups;
$added    for (int r = 0; r < rows; r++) {
        const int8_t *row = $row;
        for (int t = 0; t < tokens; t++) {
            int32_t total = bias ? bias[r] : 0;
            for (int g = 0; g < groups; g++) {
                const $A *part = x + t * columns + g * size;
                const int8_t *weights = row + g * size;
                int32_t dot = 0;
                for (int c = 0; c < size; c++)
                    dot += (int32_t)part[c] * weights[c];
$scaled            }
            y[t * rows + r] = ($Y)total;
        }
    }
}
"""),
}
GROUP_SUMS = Template("""\
    for (int i = 0; i < tokens * groups; i++) {
        group_sums[i] = 0;
        for (int c = 0; c < size; c++)
            group_sums[i] += x[i * size + c];
    }
""")
SUMS_PARAMETER = ", const int32_t *sums"
USE_GROUP_SUMS = "                total += sums[r * groups + g] * group_sums[t * groups + g];\n"
SCALED = "                total += factors ? factors[r * groups + g] * dot : dot;\n"
SHIFT_PARAMETER = ", int shift"
SHIFTED = Template("""\
                const int64_t wide = (factors ? (int64_t)factors[r * groups + g] * dot : dot)$and_sums;
                total += round_shift(wide, shift);
""")
WIDE_GROUP_SUMS = " + (int64_t)sums[r * groups + g] * group_sums[t * groups + g]"
