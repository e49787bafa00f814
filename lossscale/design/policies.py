"""Precision policies: which number format holds what during training. Which of them can be run an engine says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..support.errors import check_choice, choose

_FORMATS: Final = ("fp32", "bf16", "fp16")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Formats of a training run, each ``fp32``, ``bf16`` or ``fp16``.

    Whether an optimizer's step rounds after every operation or only what it stores follows from ``params`` and the
    recipe, and is never set.

    Attributes:
        params: the parameters that the optimizer updates (the master copy, where there are two).
        grads: the gradients as the optimizer receives them.
        state: the optimizer's moments.
        compute: forward and backward.
    """

    params: str = "fp32"
    grads: str = "fp32"
    state: str = "fp32"
    compute: str = "fp32"

    def __post_init__(self) -> None:
        for role, name in vars(self).items():
            check_choice(f"policy: {role}", name, _FORMATS)

    @property
    def text(self) -> str:
        """The formats in words, those that agree together."""
        formats = vars(self)
        if len(set(formats.values())) == 1:
            return f"everything {self.params}"
        return ", ".join(f"{role} {name}" for role, name in formats.items())

    @property
    def shifts_exactly(self) -> bool:
        """Whether numbers times 2^k stay normal as they do in float32: every format has its exponents (bf16 does)."""
        return "fp16" not in vars(self).values()

    @property
    def takes_scaler(self) -> bool:
        """Whether a GradScaler has a place: float16 in forward and backward, float32 gradients at the optimizer."""
        return self.compute == "fp16" and self.grads == "fp32"

    @property
    def steps_in_fp32(self) -> bool:
        """Whether the optimizer's step is float32's, from the gradients that it receives to what it stores."""
        return self.params == self.grads == self.state == "fp32"


POLICIES: Final[dict[str, Policy]] = {
    "fp32": Policy(),
    "bf16-true": Policy(params="bf16", grads="bf16", state="bf16", compute="bf16"),
    "fp16-true": Policy(params="fp16", grads="fp16", state="fp16", compute="fp16"),
    "bf16-mixed": Policy(compute="bf16"),
    "fp16-mixed": Policy(compute="fp16"),
    "bf16-state": Policy(state="bf16"),
    "fp16-state": Policy(state="fp16"),
}
"""The presets, by the name that is typed."""


def get_policy(name: str, argument: str = "--policy") -> Policy:
    """The preset of that name.

    Raises:
        InputError: for an unknown name.
    """
    return POLICIES[choose(argument, name, POLICIES)]
