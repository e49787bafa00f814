"""How many floating-point operations each recipe has per element: the recipes of docs/numerics.md as counts.

A recipe is a list of lines, each a building block or plain operations, under the options that switch it on. Both ends
of a branch that is taken at run time (lerp's nearer end, addcmul's value 1, the lanes of torch's fused kernels) are in
the machine code and are counted. `scalar` operations happen once a thread, on values that are the same for every
element. Names: fma, mul, add (subtractions too), div, sqrt in float32, with 64 appended in float64; `round` is a
narrowing to the parameter's dtype, `round_state` to the states'.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from kernels import flags as bits

Ops = Mapping[str, int]

MAXIMIZE, DECAY, DECOUPLED = bits.MAXIMIZE.value, bits.DECAY.value, bits.DECOUPLED.value
MOMENTUM, NESTEROV, AMSGRAD = bits.MOMENTUM.value, bits.NESTEROV.value, bits.AMSGRAD.value
CENTERED, SCALED = bits.CENTERED.value, bits.SCALED.value

# One ATen operation each: what it computes, and the rounding to the dtype at its end.
BLOCKS: Mapping[str, Ops] = {
    "mul": {"mul": 1, "round": 1},
    "add_scalar": {"add": 1, "round": 1},
    "add_scaled": {"fma": 1, "round": 1},
    "div": {"div": 1, "round": 1},
    "sqrt": {"sqrt": 1, "round": 1},
    "lerp": {"add": 1, "fma": 2, "round": 1},
    "addcmul": {"mul": 1, "fma": 2, "round": 1},
    "addcmul, value 1": {"fma": 1, "round": 1},
    "addcmul, value -1": {"mul": 1, "add": 1, "round": 1},
    "addcdiv": {"div": 1, "fma": 1, "round": 1},
    "addcdiv, value 1": {"div": 1, "add": 1, "round": 1},
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a recipe.

    Attributes:
        ops: per element.
        scalar: per thread.
        when: flags that must all be on.
        unless: flags of which none may be on.
        only: "fp32" or "16-bit", where the rule is compiled differently for the two; else "".
    """

    ops: Ops = field(default_factory=dict)
    scalar: Ops = field(default_factory=dict)
    when: int = 0
    unless: int = 0
    only: str = ""

    def applies(self, flags: int, dtype: str) -> bool:
        """Whether the line is in the kernel of these options."""
        only = self.only in ("", "fp32" if dtype == "fp32" else "16-bit")
        return flags & self.when == self.when and not flags & self.unless and only


# A quotient by one number for the whole block. In 16-bit kernels it is a product with the number's reciprocal,
# corrected twice by its exact remainder: the correctly rounded quotient without a division per element.
_BY_SCALAR = (
    Line(ops={"div": 1}, only="fp32"),
    Line(ops={"mul": 1, "fma": 4}, scalar={"div": 1}, only="16-bit"),
)
_ROUNDED = Line(ops={"round": 1})


def _block(name: str, when: int = 0, unless: int = 0) -> Line:
    # 1 - weight is formed once, in float32.
    return Line(ops=BLOCKS[name], scalar={"add": 1} if name == "lerp" else {}, when=when, unless=unless)


def _of_state(name: str, when: int = 0) -> Line:
    """A block that makes a state, or what has a state's dtype."""
    line = _block(name, when)
    return replace(line, ops={"round_state" if each == "round" else each: count for each, count in line.ops.items()})


_L2 = _block("add_scaled", DECAY, DECOUPLED)
_FUSED_L2 = Line(ops={"fma": 1}, when=DECAY, unless=DECOUPLED)
_MOMENTS = (_L2, _block("mul", DECOUPLED), _block("lerp"), _block("mul"), _block("addcmul"), _block("sqrt"))
_ADAGRAD = (_L2, _of_state("addcmul, value 1"), _of_state("sqrt"), _of_state("add_scalar"))
_SGD_EAGER = (
    _L2,
    _of_state("mul", MOMENTUM),
    _of_state("add_scaled", MOMENTUM),
    _block("add_scaled", NESTEROV),
    _block("add_scaled"),
)
_RMSPROP = (
    _L2,
    _of_state("mul"),
    _of_state("addcmul"),
    _of_state("lerp", CENTERED),
    _of_state("addcmul, value -1", CENTERED),
    _of_state("sqrt"),
    _of_state("add_scalar"),
    _of_state("mul", MOMENTUM),
    _of_state("addcdiv, value 1", MOMENTUM),
    _block("add_scaled", MOMENTUM),
    _block("addcdiv", 0, MOMENTUM),
)
_LERP_UNROUNDED = Line(ops={"add": 1, "fma": 2}, scalar={"add": 1})
# "1" made from a loaded value, so that the type is right: x·0 + 1.
_ONE = {"mul": 1, "add": 1}


def _plus(*ops: Ops) -> Ops:
    total: Counter[str] = Counter()
    for one in ops:
        total.update(one)
    return dict(total)


RECIPES: Mapping[tuple[str, str], tuple[Line, ...]] = {
    ("sgd", "foreach"): _SGD_EAGER,
    ("sgd", "for-loop"): _SGD_EAGER,
    ("sgd", "fused"): (
        _FUSED_L2,
        Line(ops={"mul": 1, "fma": 1}, scalar={"add": 1}, when=MOMENTUM),
        # The other product is fused on the aligned path.
        Line(ops={"mul": 1, "fma": 1}, when=MOMENTUM | MAXIMIZE, unless=DECAY | SCALED),
        Line(ops={"fma": 1}, when=NESTEROV),
        Line(ops={"fma": 1}),
        # The first three of four elements are not fused.
        Line(ops={"mul": 1, "add": 1}, when=SCALED, only="fp32"),
    ),
    ("sgd", "cpu-fused"): (
        _FUSED_L2,
        Line(ops={"mul": 1, "fma": 1}, when=MOMENTUM),
        Line(ops={"fma": 1}, when=NESTEROV),
        Line(ops={"fma": 1}),
    ),
    ("adam", "foreach"): (*_MOMENTS, *_BY_SCALAR, _ROUNDED, _block("add_scalar"), _block("addcdiv")),
    ("adam", "for-loop"): (*_MOMENTS, _block("mul"), _block("add_scalar"), _block("addcdiv")),
    ("adam", "foreach-capturable"): (
        *_MOMENTS,
        Line(scalar=_plus(_ONE, {"mul": 1, "div": 1, "sqrt": 1, "round": 2})),
        *_BY_SCALAR,
        _ROUNDED,
        _block("add_scalar"),
        _block("div"),
        _block("addcdiv, value 1"),
    ),
    ("adam", "for-loop-capturable"): (
        *_MOMENTS,
        Line(scalar=_plus(_ONE, {"div": 2, "mul": 3, "sqrt": 1, "round": 2})),
        _block("div"),
        _block("add_scalar"),
        _block("addcdiv, value 1"),
    ),
    ("adam", "fused"): (
        Line(scalar={"sqrt": 1, "div": 1}),
        Line(ops={"fma": 1}, scalar={"mul": 1}, when=DECOUPLED),
        # L2: contracted with amsgrad or a grad_scale, not with maximize alone, and by lane otherwise.
        Line(ops={"fma": 1}, when=DECAY | AMSGRAD, unless=DECOUPLED),
        Line(ops={"fma": 1}, when=DECAY | SCALED, unless=DECOUPLED | AMSGRAD),
        Line(ops={"mul": 1, "add": 1}, when=DECAY, unless=DECOUPLED | AMSGRAD | SCALED),
        Line(ops={"fma": 1}, when=DECAY, unless=DECOUPLED | AMSGRAD | SCALED | MAXIMIZE),
        Line(ops={"fma": 2}),
        Line(ops={"mul": 1, "fma": 2}),
        *_BY_SCALAR,
        Line(ops={"sqrt": 1, "add": 1}),
        Line(ops={"mul": 1, "div": 1, "add": 1}),
    ),
    ("adam", "cpu-fused"): (
        _FUSED_L2,
        Line(ops={"mul": 1}, when=DECOUPLED),
        # The nearer end's weight is chosen before the one fma.
        Line(ops={"add": 1, "fma": 1}, scalar={"add": 1}),
        Line(ops={"mul": 2, "fma": 1}),
        Line(ops={"div": 1, "sqrt": 1, "add": 1}),
        Line(ops={"mul": 1, "div": 1, "add": 1}),
    ),
    ("rmsprop", "foreach"): _RMSPROP,
    ("rmsprop", "for-loop"): _RMSPROP,
    ("adagrad", "foreach"): (*_ADAGRAD, _block("mul"), _block("addcdiv, value 1")),
    ("adagrad", "for-loop"): (*_ADAGRAD, _block("addcdiv")),
    ("adagrad", "fused"): (
        Line(scalar={"add": 1, "mul64": 1, "add64": 1, "fma64": 1, "div64": 1}),
        Line(ops={"fma64": 1}, when=DECAY),
        Line(ops={"fma": 1, "sqrt": 1, "add64": 1}),
        Line(ops={"mul64": 1, "div64": 1, "add64": 1}),
    ),
    ("adagrad", "cpu-fused"): (
        _FUSED_L2,
        Line(ops={"fma": 1, "sqrt": 1, "add": 1}),
        Line(ops={"mul": 1, "div": 1, "add": 1}),
    ),
    ("adam_atan2", "native"): (
        Line(ops={"mul": 1}, when=DECAY),
        _LERP_UNROUNDED,
        Line(ops={"mul": 2, "fma": 1}),
        Line(ops={"mul": 2, "sqrt": 1}),
        # The quotient, its square, the polynomial of degree eight, and the reflection at 45 degrees.
        Line(ops={"div": 1, "mul": 1}),
        Line(ops=_plus(_ONE, {"fma": 8, "mul": 1, "add": 1})),
        Line(ops={"fma": 1}),
    ),
}

UNSCALE: Mapping[str, Line] = {
    "": Line(),
    "divide": Line(ops={"div": 1}),
    "multiply": Line(ops={"mul": 1, "round": 1}, scalar={"div": 1}),
}


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the main body of a kernel may contain: operations per element and per thread."""

    element: Ops
    scalar: Ops


def expected(algorithm: str, recipe: str, flags: int, dtype: str, unscale: str) -> Expected | None:
    """The counts of a recipe under these options, without stores' roundings; None where no list is on record."""
    lines = RECIPES.get(("adam" if algorithm == "adamw" else algorithm, recipe))
    if lines is None:
        return None
    chosen = [UNSCALE[unscale], *(line for line in lines if line.applies(flags, dtype))]
    return Expected(element=_sum(line.ops for line in chosen), scalar=_sum(line.scalar for line in chosen))


def _sum(counts: Iterable[Ops]) -> Ops:
    return _plus(*counts)
