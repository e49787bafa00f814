"""An optimizer's states in a file: what they have to be before anything is told of them or made of them.

One set of rules for all commands. What no run can go on from is refused: a buffer that is missing, shapes that do not
agree, a counter that is no count, tensors without floating-point numbers. What a run can hold is read: no states yet,
parameters without one, NaN, infinities and signs that no step makes, any floating-point dtype, complex numbers.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..support.arguments import number_in, shown
from ..support.errors import InputError
from .files import Checkpoint
from .groups import Group

if TYPE_CHECKING:
    from kernels import Algorithm

Entry = Mapping[str, Any]
Kept = list[tuple[Any, Entry]]
"""Places of parameters with their states."""

_WHOLE = "give a file that torch wrote"


def read_states(
    at: Checkpoint, algorithm: Algorithm, groups: Sequence[Group], also: Collection[str] = ()
) -> list[Kept]:
    """The parameters of each group that have states.

    Args:
        at: the file.
        algorithm: whose states they are.
        groups: its groups as read; their hyperparameters say which states there are.
        also: states that the algorithm does not keep and the file may have in place of its own.

    Raises:
        InputError: a state is not what the algorithm keeps; it names state and parameter.
    """
    _check_places(at)
    found: list[Kept] = []
    for group, saved in zip(groups, at.state_dict["param_groups"], strict=True):
        entries = ((place, at.state_dict["state"].get(place)) for place in saved["params"])
        kept = [(place, entry) for place, entry in entries if entry and any(v is not None for v in entry.values())]
        for place, entry in kept:
            fault = None if also else _missing(algorithm, group, entry, f"parameter {place}")
            fault = fault or _fault(algorithm, entry, also, f"parameter {place}")
            if fault:
                raise InputError(at.argument, at.path, fault)
        found.append(kept)
    return found


def _check_places(at: Checkpoint) -> None:
    """Refuses groups that do not say whose they are, and states of nobody."""
    seen: dict[Any, int] = {}
    for number, group in enumerate(at.state_dict["param_groups"]):
        places = group.get("params")
        if not isinstance(places, list) or not all(isinstance(place, int | str) for place in places):
            what = f"params {shown(places)}" if "params" in group else "no params"
            raise InputError(at.argument, at.path, f"has {what} in group {number}, no list of places; {_WHOLE}")
        for place in places:
            if place in seen:
                remedy = f"has parameter {place} twice, in group {seen[place]} and in group {number}; {_WHOLE}"
                raise InputError(at.argument, at.path, remedy)
            seen[place] = number
    homeless = [str(place) for place in at.state_dict["state"] if place not in seen]
    if homeless:
        remedy = f"has states of parameters that are in no group: {', '.join(homeless[:8])}; {_WHOLE}"
        raise InputError(at.argument, at.path, remedy)


def _missing(algorithm: Algorithm, group: Group, entry: Entry, whose: str) -> str | None:
    """Which buffers are not there."""
    from ..diagnose.recognise import missing_states

    names = (*missing_states(algorithm, entry), *algorithm.state_names(group.record))
    missing = list(dict.fromkeys(name for name in names if entry.get(name) is None))
    if not missing:
        return None
    title = algorithm.title
    return (
        f"has no {', '.join(missing)} for {whose}, which {title} with these hyperparameters keeps, so it is damaged or "
        f"not {title}'s; save it whole, or name the optimizer that saved it"
    )


def _fault(algorithm: Algorithm, entry: Entry, also: Collection[str], whose: str) -> str | None:
    """What is wrong with the states that are there."""
    from ..diagnose.recognise import MASTER

    step = entry.get("step")
    count = number_in(step)
    if step is not None and (count is None or not 0 <= count < math.inf):
        return f"has a step of {shown(step)} for {whose}, which is no count of steps; {_WHOLE}"
    own = {name: entry[name] for name in (*(s.name for s in algorithm.states), MASTER) if entry.get(name) is not None}
    for name, value in {**own, **{name: entry[name] for name in also if entry.get(name) is not None}}.items():
        kind = None if name in also and number_in(value) is not None else kind_without_products(value)
        if kind:
            return f"has {name} of {kind} for {whose}, which holds no product; save it dequantised, dense, as float32"
    shapes = {name: list(value.shape) for name, value in own.items()}
    if not also and len(set(map(tuple, shapes.values()))) > 1:
        several = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        return f"has states of different shapes for {whose}: {several}; {_WHOLE}"
    return None


def kind_without_products(value: Any) -> str | None:
    """What a state is that holds no floating-point numbers to be multiplied; None for one that does."""
    import torch

    if type(value) not in (torch.Tensor, torch.nn.Parameter):
        return f"type {type(value).__name__}"
    if value.is_quantized:
        return "quantised numbers"
    if value.layout != torch.strided or value.device.type == "meta":
        return str(value.layout) if value.layout != torch.strided else "no data (meta)"
    widths = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128)
    return None if value.dtype in widths else str(value.dtype)
