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

    Where a state is missing of all whose others are there, it may have been those: `read_states` says what is missing.

    Raises:
        InputError: none of ours.
    """
    from kernels import ALGORITHMS

    from ..diagnose.recognise import FREE_STATES, missing_states

    entries = [entry for entry in at.state_dict["state"].values() if any(value is not None for value in entry.values())]
    groups = at.state_dict["param_groups"]
    found = dict.fromkeys(str(name) for entry in entries for name, value in entry.items() if value is not None)
    fitting = [
        algorithm
        for algorithm in ALGORITHMS.values()
        if set(found) <= {*(state.name for state in algorithm.states), *FREE_STATES}
    ]
    if not fitting:
        kept = ", ".join(found)
        remedy = f"its states are {kept}, which no optimizer here keeps; give {OPTIMIZER} if one's are among them"
        raise InputError(at.argument, at.path, remedy)
    foreign = {a.name: list(dict.fromkeys(it for group in groups for it in foreign_names(a, group))) for a in fitting}
    strangest = min(fitting, key=lambda algorithm: len(foreign[algorithm.name]))
    if foreign[strangest.name]:
        what = ", ".join(foreign[strangest.name])
        remedy = (
            f"its states fit {strangest.title}, and its param_groups have {what}, so no optimizer here saved it; give "
        )
        raise InputError(
            at.argument, at.path, f"{remedy}a file of one of {', '.join(a.title for a in ALGORITHMS.values())}"
        )
    fitting = [algorithm for algorithm in fitting if not foreign[algorithm.name]]
    whole = [algorithm for algorithm in fitting if not any(missing_states(algorithm, entry) for entry in entries)]
    fitting = whole or fitting
    absent = {algorithm.name: len(absent_names(algorithm, groups[0])) for algorithm in fitting}
    fewest = min(absent.values())
    nearest = [algorithm for algorithm in fitting if absent[algorithm.name] == fewest]
    said = groups[0].get(_DECOUPLED)
    if said is not None:
        told = [a for a in nearest if getattr(a.hyperparameters(), _DECOUPLED, None) == bool(said)]
        nearest = told or nearest
    return tuple(nearest)
