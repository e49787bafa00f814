"""Products of a Linear layer and a minibatch, model after model, as vector code: sums in the order of their index.

Every product here is C[r, l] = first[r] + Σ_k A[r, k]·B[k, l] with neighbouring l in the lanes: a block of rows of C
stays in registers while k runs, each step one fused multiply-add. The order of a sum is that of k, whatever the block.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass

from ..backends.simd import Code, compile_function, vector_registers

WIDTH = 16
"""Floats of a vector: one register of AVX-512, two of AVX2."""
_VECTOR = f"<{WIDTH} x float>"
_VECTORS = 4
"""Vectors of a row of C at a time."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of one layer: inputs, outputs, and samples of a minibatch."""

    inputs: int
    outputs: int
    samples: int


@dataclass(frozen=True, kw_only=True)
class _Matrix:
    """A matrix in memory: its address (``ptr``) and how many floats its rows and columns lie apart."""

    at: str
    row: int
    column: int = 1

    def place(self, code: Code, row: str, column: str) -> str:
        """The address of an element."""
        down = code.new(f"mul i64 {row}, {self.row}")
        along = code.new(f"mul i64 {column}, {self.column}")
        return code.address("float", self.at, code.new(f"add i64 {down}, {along}"))


Finish = Callable[[str, str, str], str]
"""From a sum (a vector), its row and its first column to what is stored."""


def _product(
    code: Code,
    sizes: tuple[int, int, int],
    a: _Matrix,
    b: _Matrix,
    c: _Matrix,
    first: str | None = None,
    finish: Finish | None = None,
) -> None:
    """C = first + A·B for ``sizes`` (rows of C, terms of a sum, columns of C, whole vectors of them).

    Args:
        code: written to.
        sizes: all at least 1.
        a: [rows, terms].
        b: [terms, columns].
        c: [rows, columns].
        first: the address of the number with which each row's sums begin; None for sums that begin with a product.
        finish: what is done to a sum before it is stored; None for nothing.
    """
    rows, terms, columns = sizes
    vectors = min(_VECTORS, columns // WIDTH)
    while columns % (vectors * WIDTH):
        vectors -= 1
    most = max(1, min(rows, vector_registers(WIDTH) * 3 // 4 // vectors))
    block = max(k for k in range(1, most + 1) if rows % k == 0)
    block = most if 2 * block < most else block
    with code.loop("0", str(columns), vectors * WIDTH) as column:
        tile = (code, terms, vectors, column, a, b, c, first, finish)
        with code.loop("0", str(rows - rows % block), block) as row:
            _tile(row, block, *tile)
        if rows % block:
            _tile(str(rows - rows % block), rows % block, *tile)


def _tile(
    row: str,
    rows: int,
    code: Code,
    terms: int,
    vectors: int,
    column: str,
    a: _Matrix,
    b: _Matrix,
    c: _Matrix,
    first: str | None,
    finish: Finish | None,
) -> None:
    """Some rows and vectors of C, from one row and column on."""

    def at(base: str, number: int) -> str:
        return code.new(f"add i64 {base}, {number}") if number else base

    down = [at(row, k) for k in range(rows)]
    along = [at(column, k * WIDTH) for k in range(vectors)]

    def factors(k: str) -> tuple[list[str], list[str]]:
        right = [_load(code, _VECTOR, b.place(code, k, place)) for place in along]
        return [_splat(code, _load(code, "float", a.place(code, place, k))) for place in down], right

    if first is None:
        left, right = factors("0")
        sums = [code.new(f"fmul {_VECTOR} {x}, {y}") for x in left for y in right]
    else:
        starts = [_splat(code, _load(code, "float", code.address("float", first, place))) for place in down]
        sums = [start for start in starts for _ in along]
    begin = int(first is None)
    if begin < terms:
        with code.fold(str(begin), str(terms), _VECTOR, sums) as k:
            left, right = factors(k)
            pairs = [(x, y) for x in left for y in right]
            sums[:] = [
                code.call("llvm.fma.v16f32", _VECTOR, (_VECTOR, x), (_VECTOR, y), (_VECTOR, z))
                for (x, y), z in zip(pairs, list(sums), strict=True)
            ]
    for number, total in enumerate(sums):
        place, first_column = down[number // vectors], along[number % vectors]
        value = total if finish is None else finish(total, place, first_column)
        code.do(f"store {_VECTOR} {value}, ptr {c.place(code, place, first_column)}, align 4")


def _load(code: Code, kind: str, address: str) -> str:
    return code.new(f"load {kind}, ptr {address}, align 4")


def _splat(code: Code, scalar: str) -> str:
    one = code.new(f"insertelement {_VECTOR} poison, float {scalar}, i32 0")
    return _shuffle(code, one, one, [0] * WIDTH)


def _shuffle(code: Code, x: str, y: str, lanes: list[int]) -> str:
    """Lanes of x, and of y from `WIDTH` on."""
    mask = ", ".join(f"i32 {lane}" for lane in lanes)
    return code.new(f"shufflevector {_VECTOR} {x}, {_VECTOR} {y}, <{WIDTH} x i32> <{mask}>")


def _transpose(code: Code, source: str, target: str, rows: int, columns: int) -> None:
    """From [rows, columns] to [columns, rows]; whole vectors of both."""
    before, after = _Matrix(at=source, row=columns), _Matrix(at=target, row=rows)
    with code.loop("0", str(rows), WIDTH) as row, code.loop("0", str(columns), WIDTH) as column:
        places = [(code.new(f"add i64 {row}, {k}"), code.new(f"add i64 {column}, {k}")) for k in range(WIDTH)]
        block = [_load(code, _VECTOR, before.place(code, down, column)) for down, _ in places]
        distance = 1
        while distance < WIDTH:
            # What is off the diagonal of every square of 2 x 2 pieces changes places.
            for k in range(WIDTH):
                if not k & distance:
                    x, y = block[k], block[k + distance]
                    own = [lane if not lane & distance else lane - distance + WIDTH for lane in range(WIDTH)]
                    other = [lane + distance if not lane & distance else lane + WIDTH for lane in range(WIDTH)]
                    block[k], block[k + distance] = _shuffle(code, x, y, own), _shuffle(code, x, y, other)
            distance *= 2
        for (_, along), value in zip(places, block, strict=True):
            code.do(f"store {_VECTOR} {value}, ptr {after.place(code, along, row)}, align 4")


_ARRAYS = ("first", "second", "third", "fourth")
_NUMBERS = ("models", "stride", "arms")
"""How many models, how many floats their parameters lie apart, and how many models in a row share inputs."""


def forward_code(sizes: Sizes, *, relu: bool, turned: bool) -> Code:
    """``run(params, x, y, buffer, ...)``: y [models, outputs, samples], each sum begun with its bias.

    x is [families, inputs, samples], or where ``turned`` [families, samples, inputs]; buffer [inputs, samples] is
    written only then.
    """
    code = _code()
    buffer = "%fourth" if turned else ""

    def passing(total: str, row: str, column: str) -> str:
        return _unless_at_most_0(code, total, total)

    with code.loop("0", "%models") as model:
        weight = _of(code, "%first", model, "%stride")
        _product(
            code,
            (sizes.outputs, sizes.inputs, sizes.samples),
            _Matrix(at=weight, row=sizes.inputs),
            _Matrix(at=_inputs(code, "%second", model, (sizes.samples, sizes.inputs), buffer), row=sizes.samples),
            _Matrix(at=_of(code, "%third", model, sizes.outputs * sizes.samples), row=sizes.samples),
            first=code.address("float", weight, str(sizes.inputs * sizes.outputs)),
            finish=passing if relu else None,
        )
    return code


def gradient_code(sizes: Sizes, *, turned: bool) -> Code:
    """``run(upstream, x, grads, buffer, ...)``: the weight's and the bias's gradient; ``turned`` as for `forward_code`.

    buffer [samples, inputs] is written only where x is not ``turned``.
    A bias's terms lie in the lanes: vector after vector is added, then the lanes in halves.
    """
    code = _code()
    buffer = "" if turned else "%fourth"
    with code.loop("0", "%models") as model:
        upstream = _of(code, "%first", model, sizes.outputs * sizes.samples)
        gradient = _of(code, "%third", model, "%stride")
        _product(
            code,
            (sizes.outputs, sizes.samples, sizes.inputs),
            _Matrix(at=upstream, row=sizes.samples),
            _Matrix(at=_inputs(code, "%second", model, (sizes.inputs, sizes.samples), buffer), row=sizes.inputs),
            _Matrix(at=gradient, row=sizes.inputs),
        )
        bias = code.address("float", gradient, str(sizes.inputs * sizes.outputs))
        with code.loop("0", str(sizes.outputs)) as output:
            row = _of(code, upstream, output, sizes.samples)
            total = _load(code, _VECTOR, row)
            for begin in range(WIDTH, sizes.samples, WIDTH):
                following = _load(code, _VECTOR, code.address("float", row, str(begin)))
                total = code.new(f"fadd {_VECTOR} {total}, {following}")
            half = WIDTH // 2
            while half:
                upper = _shuffle(code, total, total, [(lane + half) % WIDTH for lane in range(WIDTH)])
                total = code.new(f"fadd {_VECTOR} {total}, {upper}")
                half //= 2
            lane = code.new(f"extractelement {_VECTOR} {total}, i32 0")
            code.do(f"store float {lane}, ptr {code.address('float', bias, output)}, align 4")
    return code


def below_code(sizes: Sizes) -> Code:
    """``run(params, upstream, below, activation, ...)``: what flows back, where the activation is not at most 0."""
    code = _code()

    with code.loop("0", "%models") as model:
        activation = _Matrix(at=_of(code, "%fourth", model, sizes.inputs * sizes.samples), row=sizes.samples)

        def passing(total: str, row: str, column: str, activation: _Matrix = activation) -> str:
            return _unless_at_most_0(code, total, _load(code, _VECTOR, activation.place(code, row, column)))

        _product(
            code,
            (sizes.inputs, sizes.outputs, sizes.samples),
            _Matrix(at=_of(code, "%first", model, "%stride"), row=1, column=sizes.inputs),
            _Matrix(at=_of(code, "%second", model, sizes.outputs * sizes.samples), row=sizes.samples),
            _Matrix(at=_of(code, "%third", model, sizes.inputs * sizes.samples), row=sizes.samples),
            finish=passing,
        )
    return code


def _code() -> Code:
    return Code("run", [*(("ptr", name) for name in _ARRAYS), *(("i64", name) for name in _NUMBERS)])


def _of(code: Code, base: str, index: str, size: int | str) -> str:
    """The address of what belongs to a model, or of a row."""
    return code.address("float", base, code.new(f"mul i64 {index}, {size}"))


def _inputs(code: Code, base: str, model: str, shape: tuple[int, int], buffer: str) -> str:
    """The address of a model's inputs, of ``shape`` in memory; turned for a family's first if there is a buffer."""
    found = _of(code, base, code.new(f"sdiv i64 {model}, %arms"), shape[0] * shape[1])
    if not buffer:
        return found
    within = code.new(f"srem i64 {model}, %arms")
    with code.when(code.new(f"icmp eq i64 {within}, 0")):
        _transpose(code, found, buffer, *shape)
    return buffer


def _unless_at_most_0(code: Code, value: str, activation: str) -> str:
    """0 where the activation is 0 or less; NaN passes."""
    dead = code.new(f"fcmp ole {_VECTOR} {activation}, zeroinitializer")
    return code.new(f"select <{WIDTH} x i1> {dead}, {_VECTOR} zeroinitializer, {_VECTOR} {value}")


Run = Callable[..., None]
"""Four addresses, then `_NUMBERS`."""


@functools.cache
def forward(sizes: Sizes, *, relu: bool, turned: bool) -> Run:
    """`forward_code`, compiled."""
    return _compiled(forward_code(sizes, relu=relu, turned=turned))


@functools.cache
def gradient(sizes: Sizes, *, turned: bool) -> Run:
    """`gradient_code`, compiled."""
    return _compiled(gradient_code(sizes, turned=turned))


@functools.cache
def below(sizes: Sizes) -> Run:
    """`below_code`, compiled."""
    return _compiled(below_code(sizes))


def _compiled(code: Code) -> Run:
    kinds = [ctypes.c_void_p] * len(_ARRAYS) + [ctypes.c_int64] * len(_NUMBERS)
    return compile_function("run", code.text(), *kinds)
