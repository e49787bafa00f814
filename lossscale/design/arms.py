"""Arms: what may be done to a model of a family. One record an arm; nothing outside this table knows one by its name.

Studies name the arms that they run and speak about; engines, analysis and pages read what an arm does off its record.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from kernels import Algorithm


class Start(Enum):
    """Where an arm's models begin."""

    DRAWN = "the initialisation as it was drawn"
    ONE_ULP = "every initial parameter moved to a neighbouring number, in a random direction"


def unchanged(algorithm: Algorithm, base: Any, scale: float) -> Any:
    """The hyperparameters of the base arm."""
    del algorithm, scale
    return base


def scaled_lr(algorithm: Algorithm, base: Any, scale: float) -> Any:
    """The base arm's hyperparameters with learning rate × scale."""
    del algorithm
    return dataclasses.replace(base, lr=base.lr * scale)


def mapped(algorithm: Algorithm, base: Any, scale: float) -> Any:
    """The hyperparameters that undo loss × scale, each by its degree."""
    return algorithm.rescale(base, scale)


@dataclass(frozen=True, kw_only=True)
class Control:
    """How an arm stands among the controls of a page.

    Attributes:
        title: its name there.
        says: what it shows, a sentence.
        exact_scales: whether it counts only at scales that are powers of two other than 1.
        against: the arm that it is compared with.
    """

    title: str
    says: str
    exact_scales: bool = False
    against: str = "base"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What is done to a model of a family.

    Attributes:
        name: as in the pairs files.
        scaled: whether a family has one such model per scale of the grid; otherwise one, at ``at``.
        loss_power: the loss is multiplied by scale to this power.
        hyperparameters: ``hyperparameters(algorithm, base record, scale)``: the arm's own record.
        start: where its models begin.
        policy: preset of its own in place of the cell's; empty for the cell's.
        at: its scale where it is not ``scaled``.
        control: how it stands among the controls; None if it is none.
        beside_base: whether it is compared with the base arm; one that is not needs a pairing of its own.
    """

    name: str
    scaled: bool = False
    loss_power: int = 0
    hyperparameters: Callable[[Algorithm, Any, float], Any] = unchanged
    start: Start = Start.DRAWN
    policy: str = ""
    at: float = 1.0
    control: Control | None = None
    beside_base: bool = True

    @property
    def scales_only_the_loss(self) -> bool:
        """Whether it differs from the base arm in the loss's factor alone: what the closed form speaks about."""
        alike = self.hyperparameters is unchanged and self.start is Start.DRAWN and not self.policy
        return alike and self.loss_power == 1


BASE: Final = Arm(name="base")
"""Nothing was done. Every family has it, first."""

ULP: Final = Arm(
    name="ulp",
    start=Start.ONE_ULP,
    control=Control(
        title="one ulp",
        says="one ulp: every initial weight moved to a neighbouring number, in a random direction; the distance this "
        "grows to is what rounding alone can do.",
    ),
)
"""What a difference of rounding grows to."""

FLOOR: Final = Arm(
    name="floor",
    at=3.0,
    loss_power=1,
    hyperparameters=mapped,
    control=Control(
        title="floor: mapped, s = 3",
        says="floor: loss × 3 with mapped hyperparameters. 3 is no power of two, so scaling rounds and nothing else "
        "changes; the 99 % quantile of this distance over the way that training went is the floor φ (S5.controls.4), "
        "up to which a distance counts as rounding only.",
    ),
)
"""What rounding alone makes of a scaled loss in the numbers that the optimizer and the network use."""

ARMS: Final[dict[str, Arm]] = {
    arm.name: arm
    for arm in (
        BASE,
        Arm(name="loss", scaled=True, loss_power=1),
        Arm(name="lr", scaled=True, hyperparameters=scaled_lr),
        Arm(
            name="null",
            control=Control(
                title="null",
                says="null: the same run again with the loss multiplied by 1, which must give the same bits.",
            ),
        ),
        Arm(
            name="mapped",
            scaled=True,
            loss_power=1,
            hyperparameters=mapped,
            control=Control(
                title="mapped, s = 2^k",
                says="mapped: loss × 2^k with mapped hyperparameters, which must too.",
                exact_scales=True,
            ),
        ),
        ULP,
        FLOOR,
        Arm(
            name="lr-ulp",
            scaled=True,
            hyperparameters=scaled_lr,
            start=Start.ONE_ULP,
            beside_base=False,
            control=Control(
                title="one ulp at lr × s",
                says="one ulp at lr × s: the same beside the run whose learning rate is multiplied by s, where "
                "rounding "
                "grows faster; it is the control of the distance between loss × s and lr × s.",
                against="lr",
            ),
        ),
    )
}
"""Every arm, by name. A new arm is an entry here; a study runs it by naming it in its grid."""


def get_arm(name: str) -> Arm:
    """The arm of that name.

    Raises:
        ValueError: if there is none.
    """
    if name not in ARMS:
        raise ValueError(f"arm {name!r} is unknown: use one of {', '.join(ARMS)}, or add it to ARMS")
    return ARMS[name]


@dataclass(frozen=True, kw_only=True)
class Member:
    """One model of every family: an arm at a scale (the arm's own where it is not scaled)."""

    arm: Arm
    scale: float = 1.0

    @property
    def name(self) -> str:
        """The arm's name."""
        return self.arm.name

    @property
    def loss_factor(self) -> float:
        """What this model's loss is multiplied by."""
        return self.scale**self.arm.loss_power

    def hyperparameters(self, algorithm: Algorithm, base: Any) -> Any:
        """This model's hyperparameter record, from the base arm's."""
        return self.arm.hyperparameters(algorithm, base, self.scale)
