"""Rounding-exact building blocks for rules, in Triton.

Every function rounds exactly where its ATen counterpart on CUDA rounds. Values are float32 in registers whatever the
storage dtype; `round_to` marks the places where an eager kernel would have stored to the parameter's dtype and read it
back. Kernels are compiled with ``enable_fp_fusion=False``, so ``a * b + c`` is two roundings and `tl.fma` is one.
`reference.py` has the same blocks as tensor operations.
"""

import triton
import triton.language as tl

from .flags import OPTIMISTIC


@triton.jit
def scalar64(row, column: tl.constexpr):
    """One host scalar, a double. Rows are pointers to their first column, or tuples with a pointer or value of each."""
    if isinstance(row, tl.tensor):
        return tl.load(row + column)
    else:
        entry = row[column]
        if entry.dtype.is_ptr():
            return tl.load(entry)
        else:
            return entry


@triton.jit
def scalar(row, column: tl.constexpr):
    """One host scalar: a Python double narrowed once to float32, as torch narrows the scalars of its kernels."""
    return scalar64(row, column).to(tl.float32)


@triton.jit
def bias_correction(powers, row, column: tl.constexpr, step):
    """``1 - powf(beta, step)`` in float32 from the device table whose offset and length are at ``column``.

    The table ends where the power falls under 2^-25: from there the correction is exactly 1.
    """
    offset = scalar64(row, column).to(tl.int64)
    last = scalar64(row, column + 1).to(tl.int64) - 1
    index = step.to(tl.int64) - 1
    return tl.load(powers + offset + tl.where(index < last, index, last))


@triton.jit
def round_to(x, dtype: tl.constexpr):
    """Round float32 to ``dtype`` (nearest even) and widen again: what a store and a load do."""
    if dtype == tl.float32:
        return x
    else:
        return x.to(dtype).to(tl.float32)


@triton.jit
def negate(x):
    """Flip the sign bit. Not ``-x``: some Triton versions compute ``0 - x``, which loses -0."""
    return x * -1.0


@triton.jit
def mul(x, s, dtype: tl.constexpr):
    """``x.mul_(s)``."""
    return round_to(x * s, dtype)


@triton.jit
def add_scaled(x, other, alpha, dtype: tl.constexpr):
    """``x.add(other, alpha=alpha)``: one fma."""
    return round_to(tl.fma(other, alpha, x), dtype)


@triton.jit
def add_scalar(x, s, dtype: tl.constexpr, MODE: tl.constexpr = 0):
    """``x.add_(s)``; in an OPTIMISTIC ``MODE`` x is what became of a root there, 2^40 times too large."""
    if MODE & OPTIMISTIC:
        return round_to(tl.fma(x, 9.094947017729282e-13, s), dtype)
    else:
        return round_to(x + s, dtype)


@triton.jit
def div(x, y, dtype: tl.constexpr):
    """``x / y``, correctly rounded (Triton's ``/`` on float32 is approximate)."""
    return round_to(tl.div_rn(x, y), dtype)


@triton.jit
def _near_reciprocal(x):
    """1 / x within an ulp: PTX's rcp.approx. Subnormal numbers count as zeros."""
    return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)


@triton.jit
def _near_inverse_root(x):
    """1 / sqrt(x) within 2^-22.9: PTX's rsqrt.approx; infinite for 0, NaN for negative numbers."""
    return tl.inline_asm_elementwise("rsqrt.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)


@triton.jit
def _inverse_in_range(y):
    """The reciprocal that a GPU's correctly rounded division starts from, for y within 2^±126."""
    near = _near_reciprocal(y)
    return tl.fma(near, tl.fma(negate(y), near, 1.0), near)


@triton.jit
def _quotient_in_range(x, y, inverse):
    """``x / y``, correctly rounded, where nothing overflows or turns subnormal: a first quotient and its remainder."""
    # The very steps of div.rn from sm_75 to sm_120 where it does not branch: the same bits whatever rcp.approx's table.
    first = x * inverse
    return tl.fma(inverse, tl.fma(negate(y), first, x), first)


@triton.jit
def div_by_scalar(x, y, CORRECTED: tl.constexpr, MODE: tl.constexpr = 0):
    """``x / y`` for one y in the whole block, correctly rounded; x is a square root, so never subnormal.

    Where divisions, not memory, set the pace (16-bit kernels), ``CORRECTED`` asks for the same quotient without them:
    y's reciprocal is rounded correctly once, and a first quotient is corrected twice by its exact remainder (Markstein
    1990: correcting a faithful quotient with a correctly rounded reciprocal gives the rounded quotient). Zeros and
    infinities keep the first quotient. In an OPTIMISTIC ``MODE`` y is within 2^±60, and a root is none that overflows.
    """
    if MODE & OPTIMISTIC:
        return _quotient_in_range(x, y, _inverse_in_range(y))
    elif not CORRECTED:
        return tl.div_rn(x, y)
    else:
        inverse = tl.div_rn(tl.full((), 1.0, tl.float32), y)
        minus_y = negate(y)
        first = x * inverse
        second = tl.fma(tl.fma(minus_y, first, x), inverse, first)
        third = tl.fma(tl.fma(minus_y, second, x), inverse, second)
        return tl.where((first == 0.0) | (tl.abs(first) == float("inf")), first, third)


@triton.jit
def sqrt(x, dtype: tl.constexpr, MODE: tl.constexpr = 0):
    """``x.sqrt()``, correctly rounded (`tl.sqrt` is approximate and flushes subnormals).

    In an OPTIMISTIC ``MODE`` these are the steps of a GPU's own root without its branch for operands under 2^-101:
    they are scaled out of there. The result, in float32, is 2^40 times the root until `add_scalar` takes that back;
    that of 0 is 2^-63, and for an operand of 2^48 or more, negative or NaN it is NaN.
    """
    if MODE & OPTIMISTIC:
        # The smallest operand has 2^-69 here, half of whose last place is far more than what is added.
        scaled = tl.fma(x, 1.2089258196146292e24, 1.1754943508222875e-38)
        near = _near_inverse_root(scaled)
        root = scaled * near
        return tl.fma(tl.fma(negate(root), root, scaled), near * 0.5, root)
    else:
        return round_to(tl.sqrt_rn(x), dtype)


@triton.jit
def _scaled_quotient(a, b):
    """2^48 a / b, correctly rounded or under 2^-78; NaN where a is 2^80 or more, or b is 0 or subnormal; b < 2^100."""
    return _quotient_in_range(a * 281474976710656.0, b, _inverse_in_range(b))


@triton.jit
def quotient(a, b, MODE: tl.constexpr = 0):
    """``a / b``, correctly rounded; in float32, unlike the other blocks, whatever the dtype.

    In an OPTIMISTIC ``MODE`` it is NaN where a is 2^80 or more or b is 0 or subnormal; b is below 2^100, and a
    subnormal quotient or one of -0 may have other bits.
    """
    if MODE & OPTIMISTIC:
        return _scaled_quotient(a, b) * 3.552713678800501e-15
    else:
        return tl.div_rn(a, b)


@triton.jit
def lerp(x, end, weight, dtype: tl.constexpr, MODE: tl.constexpr = 0):
    """``x.lerp_(end, weight)``: ATen starts from the nearer end, with 1 - weight formed in float32.

    In an OPTIMISTIC ``MODE`` the weight is below 1/2.
    """
    difference = end - x
    from_start = tl.fma(difference, weight, x)
    if MODE & OPTIMISTIC:
        return round_to(from_start, dtype)
    else:
        from_end = tl.fma(negate(1.0 - weight), difference, end)
        return round_to(tl.where(tl.abs(weight) < 0.5, from_start, from_end), dtype)


@triton.jit
def addcmul(x, a, b, value, dtype: tl.constexpr, MODE: tl.constexpr = 0):
    """``x.addcmul_(a, b, value=value)``: ATen fuses a·b + x when value is 1, and rounds a·b otherwise.

    In an OPTIMISTIC ``MODE`` the value is not 1.
    """
    if MODE & OPTIMISTIC:
        return round_to(tl.fma(a * b, value, x), dtype)
    else:
        return round_to(tl.where(value == 1.0, tl.fma(a, b, x), tl.fma(a * b, value, x)), dtype)


@triton.jit
def addcdiv(x, a, b, value, dtype: tl.constexpr, MODE: tl.constexpr = 0):
    """``x.addcdiv_(a, b, value=value)``: the quotient is rounded, then one fma (for value 1, a sum).

    In an OPTIMISTIC ``MODE`` the value is 0 or within 2^±70, and the quotient is scaled back inside the fma.
    """
    if MODE & OPTIMISTIC:
        return round_to(tl.fma(_scaled_quotient(a, b), value * 3.552713678800501e-15, x), dtype)
    else:
        return round_to(tl.fma(quotient(a, b, MODE), value, x), dtype)


@triton.jit
def maximum(a, b):
    """``torch.maximum``: NaN in either operand propagates. Not `tl.maximum`, whose NaN rule depends on the backend."""
    return tl.where((a > b) | (a != a), a, b)
