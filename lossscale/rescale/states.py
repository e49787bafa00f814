"""An optimizer's states, multiplied by powers of the loss's factor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ..checkpoints.files import Checkpoint
from ..checkpoints.groups import Group
from ..checkpoints.states import read_states
from ..support.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from kernels import Algorithm

DEGREE: Final = "--degree"
_STEEPEST: Final = 4


@dataclass(frozen=True, kw_only=True)
class Lost:
    """What the states' dtypes did not hold.

    Attributes:
        zeros: elements that became 0.
        rounded: elements that are not the exact product, those zeros included.
        nonfinite: elements that were infinite or NaN before, and stay so.
        negative: elements of averages of squares that were below 0 before, and stay so.
        stateless: whether there are no states.
    """

    zeros: int = 0
    rounded: int = 0
    nonfinite: int = 0
    negative: int = 0
    stateless: bool = False


def parse_degrees(algorithm: Algorithm, texts: list[str]) -> dict[str, int]:
    """``["exp_avg_var=2"]`` as names and degrees.

    Raises:
        InputError: for a degree that is no small whole number, and a name that is known or given twice.
    """
    from ..diagnose.recognise import FREE_STATES

    degrees: dict[str, int] = {}
    own = (*(state.name for state in algorithm.states), *FREE_STATES)
    for text in texts:
        name, _, number = text.partition("=")
        if name in own or name in degrees:
            known = f"a state of {algorithm.title} with a degree of its own" if name in own else "given twice"
            raise InputError(DEGREE, text, f"{name} is {known}; give each unknown state once")
        try:
            degrees[name] = int(number)
        except ValueError as error:
            raise InputError(DEGREE, text, "is no NAME=D; give a whole number such as exp_avg_var=2") from error
        if not name or abs(degrees[name]) > _STEEPEST:
            raise InputError(DEGREE, text, f"is no NAME=D; give a name and a D from -{_STEEPEST} to {_STEEPEST}")
    return degrees


def rescale_states(
    algorithm: Algorithm, checkpoint: Checkpoint, groups: Sequence[Group], given: Mapping[str, int], factor: float
) -> Lost:
    """Multiplies the states of a checkpoint by ``factor**degree``, in place.

    Args:
        algorithm: whose states they are.
        checkpoint: the file as read; it is worth nothing after an error.
        groups: its groups as read.
        given: degrees of states that the algorithm does not keep.
        factor: what the loss was multiplied by.

    Raises:
        InputError: a state is unknown, or `read_states` refuses it.
    """
    entries = checkpoint.state_dict["state"]
    _check_names(algorithm, entries, given, checkpoint)
    states = read_states(checkpoint, algorithm, groups, given)
    squares = {state.name for state in algorithm.states if state.degree == 2}
    degrees = {**{state.name: state.degree for state in algorithm.states}, **given}
    zeros = rounded = nonfinite = negative = 0
    for entry in entries.values():
        for name, degree in degrees.items():
            if degree and entry.get(name) is not None:
                negative += _below_zero(entry[name]) if name in squares else 0
                entry[name], lost = _times(entry[name], factor, degree, name)
                zeros, rounded = zeros + lost.zeros, rounded + lost.rounded
                nonfinite += lost.nonfinite
    stateless = not any(states)
    return Lost(zeros=zeros, rounded=rounded, nonfinite=nonfinite, negative=negative, stateless=stateless)


def _check_names(algorithm: Algorithm, entries: Mapping[Any, Any], given: Mapping[str, int], at: Checkpoint) -> None:
    from ..diagnose.recognise import FREE_STATES

    found = dict.fromkeys(_names(entries))
    known = (*(state.name for state in algorithm.states), *FREE_STATES, *given)
    unknown = [name for name in found if name not in known]
    if unknown:
        ways = " ".join(f"{DEGREE} {name}=D" for name in unknown)
        remedy = f"has states that {algorithm.title} does not keep; name the optimizer that saved them, or give {ways}"
        raise InputError(at.argument, at.path, remedy)
    strange = [name for name in given if name not in found]
    if strange:
        raise InputError(DEGREE, strange[0], f"{at.path} has no such state; it has {', '.join(found) or 'none'}")


def _names(entries: Mapping[Any, Any]) -> Iterator[str]:
    for entry in entries.values():
        yield from map(str, entry)


def _below_zero(value: Tensor) -> int:
    return 0 if value.is_complex() else int((value < 0).sum())


def _times(value: Any, factor: float, degree: int, name: str) -> tuple[Any, Lost]:
    import torch

    if not isinstance(value, torch.Tensor):
        return value * factor**degree, Lost()
    if value.is_complex():
        parts, lost = _times_real(torch.view_as_real(value.detach().resolve_conj()), factor, degree, name)
        return torch.view_as_complex(parts), lost
    return _times_real(value, factor, degree, name)


def _times_real(value: Tensor, factor: float, degree: int, name: str) -> tuple[Tensor, Lost]:
    value = value.detach()  # a Parameter's product would keep its history
    exact = value.double() * factor**degree
    product = exact.to(value.dtype)
    if bool((value.isfinite() & ~product.isfinite()).any()):
        by = "its square" if degree == 2 else "it" if degree == 1 else f"it to the power of {degree}"
        remedy = f"{name}, multiplied by {by}, overflows {value.dtype}; give a scale nearer to 1"
        raise InputError("--scale", f"{factor:g}", remedy)
    zeros = int(((value != 0) & (product == 0)).sum())
    rounded = int((value.isfinite() & (product.double() != exact)).sum())
    return product, Lost(zeros=zeros, rounded=rounded, nonfinite=int((~value.isfinite()).sum()))
