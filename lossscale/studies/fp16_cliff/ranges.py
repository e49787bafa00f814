"""What a state holds of a gradient, of its square and of the first step of its average: by our kernels' steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kernels import DTYPES

from ...design.policies import get_policy
from ...design.study import StudyContext
from ...engines.populations import BF16_STATE, FP16_STATE, FP32, Arithmetic

BETA2: Final = 0.999
STATES: Final = (FP32, BF16_STATE, FP16_STATE)
_WIDEST: Final = DTYPES["fp32"]
_FIRST, _LAST = -149, 127


@dataclass(frozen=True, kw_only=True)
class Held:
    """A number that a state holds after one step.

    Attributes:
        name: of the number, in g.
        algorithm: whose step makes it.
        options: of that algorithm.
        state: its name.
        power: of g in it.
        weight: what g^power is multiplied by.
    """

    name: str
    algorithm: str
    options: Mapping[str, object]
    state: str
    power: int
    weight: float = 1.0

    def after_a_step(self, context: StudyContext, arithmetic: Arithmetic, grads: Tensor) -> Tensor:
        """[n] float64: the state after a first step with these gradients [n], float32."""
        population = arithmetic.population(context, self.algorithm, [dict(self.options)], len(grads))
        population.step(arithmetic.grads(population, grads))
        return population.state[self.state][0].double().cpu()

    def border(self, value: float) -> float:
        """The g at which the number has this value, were it not rounded."""
        return float((value / self.weight) ** (1.0 / self.power))


GRADIENT: Final = Held(name="g", algorithm="adam", options={"betas": (0.0, BETA2)}, state="exp_avg", power=1)
SQUARE: Final = Held(name="g²", algorithm="adagrad", options={}, state="sum", power=2)
AVERAGE: Final = Held(
    name="(1 − β₂) g²",
    algorithm="adam",
    options={"betas": (0.9, BETA2)},
    state="exp_avg_sq",
    power=2,
    weight=float(np.float32(1 - BETA2)),
)
HELD: Final = (GRADIENT, SQUARE, AVERAGE)

EVENTS: Final[Mapping[str, Callable[[Tensor, str], Tensor]]] = {
    "nonzero": lambda held, name: held > 0,
    "normal": lambda held, name: held >= DTYPES[name].smallest_normal,
    "infinite": lambda held, name: held.isinf(),
}
"""What may become of a number as it grows, from the format's name."""


def format_of(arithmetic: Arithmetic) -> str:
    """The state's format by its name."""
    return get_policy(arithmetic.policy).state


def levels(arithmetic: Arithmetic) -> dict[str, float]:
    """The value from which on an event happens when a real number is rounded: ties go to the even neighbour."""
    form = DTYPES[format_of(arithmetic)]
    return {
        "nonzero": form.smallest / 2.0,  # a tie, which goes to 0
        "normal": form.smallest_normal - form.smallest / 2.0,
        "infinite": form.largest + (2.0 ** (math.frexp(form.largest)[1] - form.significant_bits)) / 2.0,
    }


def powers() -> Tensor:
    """All powers of two of float32, in float32."""
    return torch.from_numpy(np.ldexp(np.float32(1), np.arange(_FIRST, _LAST + 1)))


def first_powers(context: StudyContext, held: Held, arithmetic: Arithmetic) -> dict[str, int]:
    """For each event the exponent of the first power of two at which it happens, 128 where none does."""
    state = held.after_a_step(context, arithmetic, powers())
    found = {}
    for event, happens in EVENTS.items():
        flags = happens(state, format_of(arithmetic))
        found[event] = _FIRST + int(flags.int().argmax()) if bool(flags.any()) else _LAST + 1
    return found


def wrong_powers(context: StudyContext, held: Held, arithmetic: Arithmetic) -> tuple[int, int]:
    """How many events at powers of two are not those of the number's exact value, rounded; and of how many."""
    grads = powers()
    state = held.after_a_step(context, arithmetic, grads)
    exact = held.weight * grads.double() ** held.power
    # A product is float32 before it is anything else.
    beyond = grads.double() ** held.power >= levels(FP32)["infinite"]
    wrong = 0
    for event, level in levels(arithmetic).items():
        predicted = exact > level if event == "nonzero" else (exact >= level) | beyond
        wrong += int((EVENTS[event](state, format_of(arithmetic)) != predicted).sum())
    return wrong, len(grads) * len(EVENTS)


def border(context: StudyContext, held: Held, arithmetic: Arithmetic, event: str) -> float:
    """The smallest float32 gradient at which the event happens, by halving the bit patterns between 0 and infinity."""
    low, high = 0, 0x7F800000
    while high - low > 1:
        places: npt.NDArray[np.int64] = np.unique(np.linspace(low, high, 257).astype(np.int64))[1:-1]
        grads = torch.from_numpy(places.astype(np.int32)).view(torch.float32)
        flags = EVENTS[event](held.after_a_step(context, arithmetic, grads), format_of(arithmetic)).numpy()
        first = int(flags.argmax()) if flags.any() else len(places)
        low, high = (int(places[first - 1]) if first else low), (int(places[first]) if first < len(places) else high)
    return float(torch.tensor(high, dtype=torch.int32).view(torch.float32))
