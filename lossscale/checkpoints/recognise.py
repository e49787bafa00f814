"""Which optimizer saved a state_dict, by the names of its states and hyperparameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..support.errors import InputError
from .files import Checkpoint
from .groups import absent_names, foreign_names

if TYPE_CHECKING:
    from kernels import Algorithm

OPTIMIZER = "--optimizer"
_DECOUPLED = "decoupled_weight_decay"


def saved_by(at: Checkpoint) -> tuple[Algorithm, ...]:
    """The algorithms that may have saved it: Adam and AdamW of an older torch cannot be told apart.

    Raises:
        InputError: none of ours.
    """
    from kernels import ALGORITHMS

    from ..diagnose.recognise import FREE_STATES, missing_states

    entries = [entry for entry in at.state_dict["state"].values() if entry]
    groups = at.state_dict["param_groups"]
    found = dict.fromkeys(str(name) for entry in entries for name, value in entry.items() if value is not None)
    fitting = [
        algorithm
        for algorithm in ALGORITHMS.values()
        if set(found) <= {*(state.name for state in algorithm.states), *FREE_STATES}
        and not any(missing_states(algorithm, entry) for entry in entries)
        and not any(foreign_names(algorithm, group) for group in groups)
    ]
    if not fitting:
        kept = ", ".join(found) or "none"
        remedy = f"its states are {kept}, which no optimizer here keeps; give {OPTIMIZER} if one's are among them"
        raise InputError(at.argument, at.path, remedy)
    absent = {algorithm.name: len(absent_names(algorithm, groups[0])) for algorithm in fitting}
    fewest = min(absent.values())
    nearest = [algorithm for algorithm in fitting if absent[algorithm.name] == fewest]
    said = groups[0].get(_DECOUPLED)
    if said is not None:
        told = [a for a in nearest if getattr(a.hyperparameters(), _DECOUPLED, None) == bool(said)]
        nearest = told or nearest
    return tuple(nearest)
