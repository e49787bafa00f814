"""Options that select code in a rule: a bit mask, constant when a kernel is compiled.

Each distinct mask is its own kernel and its own launch; values (learning rate, betas, step, loss scale, ...) never are.
The constants work in Triton rules and in plain Python alike: ``if flags & MAXIMIZE``.
"""

from __future__ import annotations

import triton.language as tl


class Flag(tl.constexpr):  # type: ignore[misc]
    """A bit that compiled rules, interpreted rules (where masks are integers) and references test alike."""

    def __rand__(self, mask: int | tl.constexpr) -> tl.constexpr:
        return tl.constexpr((mask.value if isinstance(mask, tl.constexpr) else mask) & self.value)


MAXIMIZE = Flag(1 << 0)
"""Ascend: the gradient's sign is flipped first."""
DECAY = Flag(1 << 1)
"""weight_decay is not 0."""
DECOUPLED = Flag(1 << 2)
"""Weight decay shrinks the parameter (AdamW) instead of entering the gradient (L2)."""
MOMENTUM = Flag(1 << 3)
"""A momentum buffer is kept."""
NESTEROV = Flag(1 << 4)
"""SGD looks ahead along the momentum."""
AMSGRAD = Flag(1 << 5)
"""Adam divides by the largest second moment so far."""
CENTERED = Flag(1 << 6)
"""RMSprop subtracts the squared mean gradient."""
SCALED = Flag(1 << 7)
"""A grad_scale is given (fused recipes are contracted differently then)."""
REUSED = Flag(1 << 8)
"""A program divides many elements by one number: quotients by its corrected reciprocal, to the same bits."""
OPTIMISTIC = Flag(1 << 9)
"""Roots and quotients without the branches for operands out of range, to the same bits where their result is in range
(`arithmetic.sqrt`); lerp and addcmul for ordinary weights. Only a compiled kernel that looks at its results asks for
it.
"""

NAMES = {
    "maximize": MAXIMIZE,
    "decay": DECAY,
    "decoupled": DECOUPLED,
    "momentum": MOMENTUM,
    "nesterov": NESTEROV,
    "amsgrad": AMSGRAD,
    "centered": CENTERED,
    "scaled": SCALED,
    "reused": REUSED,
    "optimistic": OPTIMISTIC,
}


def mask(**options: bool) -> int:
    """The bit mask of the options that are true, by their names in `NAMES`."""
    return sum(int(NAMES[name].value) for name, on in options.items() if on)


def describe(flags: int) -> str:
    """The mask in words, such as ``"decay+amsgrad"``; ``"plain"`` for none."""
    return "+".join(name for name, bit in NAMES.items() if flags & bit.value) or "plain"
