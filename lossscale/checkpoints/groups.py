"""Parameter groups of a saved optimizer: the hyperparameters in them, and what schedulers keep beside those."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..design.options import make_record
from ..support.arguments import number_in, shown
from ..support.errors import InputError
from .files import Checkpoint

if TYPE_CHECKING:
    from kernels import Algorithm

GROUP_RATES: Final = ("initial_lr", "max_lr", "min_lr", "swa_lr")
"""Learning rates that torch's schedulers keep in a group."""
_ADDED_LATER: Final = ("maximize", "decoupled_weight_decay")
"""What a state_dict of an older torch may lack; its default is what that torch did."""
_NOT_SCALED: Final = ("params", "base_momentum", "max_momentum", "lr_scale")
"""What torch and timm keep in a group that is free of the loss's scale."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """A parameter group as read.

    Attributes:
        record: its hyperparameters; what it lacks has the class's defaults.
        absent: names of what it lacks.
        rates: learning rates that a scheduler keeps in it.
        unknown: names of its other numbers.
    """

    record: Any
    absent: tuple[str, ...]
    rates: dict[str, float]
    unknown: tuple[str, ...]


def read_group(algorithm: Algorithm, group: Mapping[str, Any], at: Checkpoint) -> Group:
    """The hyperparameters of a parameter group of a file.

    Raises:
        InputError: it is another optimizer's, or holds something that is no number where one belongs.
    """
    from ..diagnose.recognise import group_values

    names = algorithm.hyperparameter_names
    foreign = foreign_names(algorithm, group)
    if foreign or not set(names) & set(group):
        what = ", ".join(foreign) or f"none of {', '.join(names)}"
        remedy = f"has {what} in its param_groups, so it is not {algorithm.title}'s; name the optimizer that saved it"
        raise InputError(at.argument, at.path, remedy)
    try:
        values = group_values(algorithm, group)
    except ValueError as error:
        raise InputError(at.argument, at.path, f"its {error}; give a file that torch wrote") from error
    infinite = [name for name, value in values.items() if not _is_finite(value)]
    if infinite:
        remedy = f"its {infinite[0]} is {shown(values[infinite[0]])}, no finite number; give a file that torch wrote"
        raise InputError(at.argument, at.path, remedy)
    known = {*names, *GROUP_RATES, *_NOT_SCALED}
    return Group(
        record=make_record(algorithm, values, at.argument, str(at.path)),
        absent=absent_names(algorithm, group),
        rates={name: number_of(name, group[name], at.argument, at.path) for name in GROUP_RATES if name in group},
        unknown=tuple(str(name) for name, value in group.items() if name not in known and _is_number(value)),
    )


def foreign_names(algorithm: Algorithm, group: Mapping[str, Any]) -> list[str]:
    """Hyperparameters in a group that are other algorithms' and not this one's."""
    from kernels import ALGORITHMS

    others = dict.fromkeys(name for other in ALGORITHMS.values() for name in other.hyperparameter_names)
    found = [name for name in others if name in group and name not in algorithm.hyperparameter_names]
    # torch's RAdam keeps Adam's states; Adam has had amsgrad in every group that has decoupled_weight_decay.
    radam = "decoupled_weight_decay" in group and "betas" in group and "amsgrad" not in group
    return [*found, "decoupled_weight_decay without amsgrad (RAdam)"] if radam else found


def absent_names(algorithm: Algorithm, group: Mapping[str, Any]) -> tuple[str, ...]:
    """Hyperparameters that a group lacks, but for those that older versions of torch had no name for."""
    names = algorithm.hyperparameter_names
    return tuple(name for name in names if name not in group and name not in _ADDED_LATER)


def _is_finite(value: Any) -> bool:
    return all(map(math.isfinite, value if isinstance(value, tuple) else (value,)))


def _is_number(value: Any) -> bool:
    import torch

    return not isinstance(value, bool) and isinstance(value, int | float | torch.Tensor)


def number_of(name: str, value: Any, argument: str, path: Path) -> float:
    """A value that has to be a finite number.

    Raises:
        InputError: it is none.
    """
    number = number_in(value)
    if number is None or not math.isfinite(number):
        raise InputError(
            argument, path, f"its {name} is {shown(value)}, no finite number; give a file that torch wrote"
        )
    return number
