"""All mutants, and the faults that cannot show, with the reason."""

from __future__ import annotations

from collections.abc import Mapping

from .arithmetic import ARITHMETIC
from .around import AROUND
from .bookkeeping import LAUNCH, STATE
from .mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (*ARITHMETIC, *STATE, *AROUND, *LAUNCH)

UNKILLABLE: Mapping[str, str] = {
    "alignment test dropped": "only a GPU faults on an unaligned 16-byte access. The offset layouts meet it there, "
    "and `bench static` sees what the test guards.",
    "NaN in maximum's first operand": "equivalent in Adam: once the largest second moment is NaN, so is the current "
    "one, and stays it.",
    "chunk table kept when a size changes": "equivalent: a tensor of another size makes a new bucket with new tables.",
    "addcdiv with value 1 fused": "equivalent: q·1 + x has an exact product, so the fused and the plain sum agree.",
    "SGD's lr negated after narrowing": "equivalent: rounding to nearest is symmetric, so f(-lr) = -f(lr).",
    "root taken in float64": "equivalent: a float64 root rounded to float32 is the correctly rounded float32 root.",
    "reciprocal for a scale of 2^k": "equivalent for powers of two, which is why cases also scale by 3,000.",
    "block of another width": "equivalent: which program steps an element decides nothing about its value.",
}
