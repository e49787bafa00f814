"""Parameter groups: the hyperparameters in them, and the learning rates that schedulers keep beside those."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from ..design.options import check_finite, make_record
from ..support.errors import InputError
from .files import FROM, children

if TYPE_CHECKING:
    from pathlib import Path

    from kernels import Algorithm

GROUP_RATES: Final = ("initial_lr", "max_lr", "min_lr", "swa_lr")
"""Learning rates that torch's schedulers keep in a group."""
_FILE_RATES: Final = ("base_lrs", "max_lrs", "min_lrs", "default_min_lr", "eta_min", "_last_lr")
"""Learning rates in a scheduler's own state_dict."""
_ADDED_LATER: Final = ("maximize", "decoupled_weight_decay")
"""What a state_dict of an older torch may lack; its default is what that torch did."""


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


def read_group(algorithm: Algorithm, group: dict[str, Any], path: Path) -> Group:
    """The hyperparameters of a parameter group of a file.

    Raises:
        InputError: it is another optimizer's, or holds something that is no number where one belongs.
    """
    from kernels import ALGORITHMS

    names = algorithm.hyperparameter_names
    others = dict.fromkeys(name for other in ALGORITHMS.values() for name in other.hyperparameter_names)
    foreign = [name for name in others if name in group and name not in names]
    if foreign or not set(names) & set(group):
        what = ", ".join(foreign) or f"none of {', '.join(names)}"
        remedy = f"has {what} in its param_groups, so it is not {algorithm.title}'s; name the optimizer that saved it"
        raise InputError(FROM, path, remedy)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(algorithm.hyperparameters):
        if field.name not in group:
            continue
        value = group[field.name]
        try:
            if isinstance(field.default, tuple):
                values[field.name] = tuple(float(item) for item in value)
            else:
                values[field.name] = bool(value) if isinstance(field.default, bool) else float(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(FROM, path, f"{field.name} is {value!r}; give a file that torch wrote") from error
    known = {*names, *GROUP_RATES, *_NOT_SCALED}
    return Group(
        record=make_record(algorithm, values, FROM, str(path)),
        absent=tuple(name for name in names if name not in group and name not in _ADDED_LATER),
        rates={name: _number(name, group[name], FROM, path) for name in GROUP_RATES if name in group},
        unknown=tuple(str(name) for name, value in group.items() if name not in known and _is_number(value)),
    )


_NOT_SCALED: Final = ("params", "base_momentum", "max_momentum", "lr_scale")
"""What torch and timm keep in a group that is free of the loss's scale."""


def write_group(algorithm: Algorithm, group: dict[str, Any], then: Any, by: float) -> None:
    """Puts new hyperparameters into a group, and multiplies a scheduler's rates in it."""
    import torch

    degrees = algorithm.degrees_of(then)
    for name in algorithm.hyperparameter_names:
        if degrees.get(name, 0):
            old, new = group.get(name), getattr(then, name)
            group[name] = torch.full_like(old, new) if isinstance(old, torch.Tensor) else new
    for name in GROUP_RATES:
        if name in group and by != 1:
            group[name] = group[name] * by


def scale_file_rates(
    document: Any, by: float, argument: str, path: Path, place: str = "", seen: set[int] | None = None
) -> list[dict[str, Any]]:
    """Multiplies the learning rates of every scheduler's state_dict in a document, in place.

    Returns:
        A row for each: its place (``lr_schedulers.0.base_lrs``), what it was and what it is.
    """
    rows: list[dict[str, Any]] = []
    seen = set() if seen is None else seen
    if id(document) in seen:  # a file keeps one object once, however often it is named
        return rows
    seen.add(id(document))
    if isinstance(document, dict) and ("base_lrs" in document or "_last_lr" in document):
        # ReduceLROnPlateau's eps is the smallest change of a learning rate.
        for name in (*_FILE_RATES, *(("eps",) if "min_lrs" in document else ())):
            if document.get(name) is None:
                continue
            old = document[name]
            numbers = [_number(name, item, argument, path) for item in (old if isinstance(old, list) else [old])]
            check_finite(SimpleNamespace(**{name: max(map(abs, numbers), default=0.0) * by}), "--scale", f"{by:g}")
            document[name] = [item * by for item in old] if isinstance(old, list) else old * by
            rows.append({"rate": f"{place}{name}", "now": numbers, "set_to": [item * by for item in numbers]})
    for name, inner in children(document):
        if not (isinstance(inner, dict) and "param_groups" in inner):
            rows += scale_file_rates(inner, by, argument, path, f"{place}{name}.", seen)
    return rows


def _is_number(value: Any) -> bool:
    import torch

    return not isinstance(value, bool) and isinstance(value, int | float | torch.Tensor)


def _number(name: str, value: Any, argument: str, path: Path) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(argument, path, f"{name} is {value!r}, no number; give a file that torch wrote") from error
