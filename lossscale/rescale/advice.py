"""What ``rescale`` says: the table of hyperparameters and states, and the sentences under it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ..checkpoints.files import Checkpoint
from ..checkpoints.groups import Group
from ..design.scales import is_power_of_two
from .states import Lost
from .values import CLIP

if TYPE_CHECKING:
    from kernels import Algorithm

_NORMAL: Final = 2.0**-126
"""Float32's smallest number with all its bits."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What was asked and what came of it.

    Attributes:
        algorithm: the optimizer.
        scale: the loss's factor as typed.
        factor: the same as a number.
        groups: as read or typed.
        then: the hyperparameters of each, rescaled.
        max_grad_norm: the clipping threshold, if one was named.
        checkpoint: the file, if there is one.
        rates: schedulers' rates that were multiplied, in that file and in the scheduler's own.
        lost: what the states' dtypes did not hold.
    """

    algorithm: Algorithm
    scale: str
    factor: float
    groups: Sequence[Group]
    then: Sequence[Any]
    max_grad_norm: float | None
    checkpoint: Checkpoint | None
    rates: Sequence[Mapping[str, Any]]
    lost: Lost

    @property
    def lr_degree(self) -> int:
        """How a learning rate follows the loss."""
        return self.algorithm.degrees_of(self.groups[0].record).get("lr", 0)

    @property
    def subnormal(self) -> list[str]:
        """Rescaled hyperparameters that float32 holds with fewer bits, or not at all."""
        names = self.algorithm.degrees_of(self.groups[0].record)
        moved = [(name, getattr(record, name, 0)) for record in self.then for name, degree in names.items() if degree]
        return list(dict.fromkeys(name for name, value in moved if 0 < abs(value) < _NORMAL))

    @property
    def exact(self) -> bool:
        """Whether nothing that is known here rounds."""
        rounds = self.lost.rounded or self.subnormal or self.max_grad_norm is not None
        return is_power_of_two(self.factor) and not rounds


def rows(case: Case) -> list[dict[str, Any]]:
    """A row for each hyperparameter, and for a rate that a scheduler keeps in the group."""
    found = []
    for place, (group, then) in enumerate(zip(case.groups, case.then, strict=True)):
        now = group.record
        values = [
            (name, getattr(now, name), getattr(then, name), degree)
            for name, degree in case.algorithm.degrees_of(now).items()
            if hasattr(now, name)
        ]
        degree = case.lr_degree
        values += [(name, rate, rate * case.factor**degree, degree) for name, rate in group.rates.items() if degree]
        label = {"group": place} if len(case.groups) > 1 else {}
        found += [{**label, **_row(*value)} for value in values]
    if case.max_grad_norm is not None:
        found.append(_row(CLIP, case.max_grad_norm, case.max_grad_norm * case.factor, 1))
    return found


def rate_rows(case: Case) -> list[dict[str, Any]]:
    """A row for each rate of a scheduler's own state_dict."""
    return [
        _row(rate["rate"], tuple(rate["now"]), tuple(rate["set_to"]), case.lr_degree)
        for rate in case.rates
        if case.lr_degree
    ]


def table_rows(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the same columns."""
    names = dict.fromkeys(name for row in found for name in row)
    return [{name: row.get(name) for name in names} for row in found]


def _row(name: str, now: Any, then: Any, degree: int) -> dict[str, Any]:
    return {"hyperparameter": name, "now": _plain(now), "set_to": _plain(then), "degree": degree}


def _plain(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else float(value)


def state_rows(case: Case, given: Mapping[str, int]) -> list[dict[str, Any]]:
    """A row for each state that these hyperparameters keep, and for those whose degree was given."""
    kept = {name for group in case.groups for name in case.algorithm.state_names(group.record)}
    degrees = {state.name: state.degree for state in case.algorithm.states if state.name in kept}
    return [
        {"state": name, "degree": degree, "multiply_by": case.factor**degree}
        for name, degree in {**degrees, **given}.items()
    ]


def sentences(case: Case, found: list[dict[str, Any]], states: list[dict[str, Any]]) -> Iterator[str]:
    """What to do, how exactly it holds, and what lies outside."""
    yield _first(case, found)
    moving = [f"{state['state']} by {state['multiply_by']:g}" for state in states if state["degree"]]
    if moving:
        yield f"If the loss changes in mid-run, multiply the state too: {', '.join(moving)}."
    yield _outside(case)
    if case.lr_degree:
        yield from _schedulers(case)
    if not is_power_of_two(case.factor):
        yield f"{case.scale} is no power of two: products round, so this is exact only up to rounding."
    if case.subnormal:
        yield f"{' and '.join(case.subnormal)} is below float32's normal numbers then and loses bits."
    if case.lost.zeros:
        yield f"{case.lost.zeros} elements of the state became 0: too small for their dtype at this scale."
    elif case.lost.rounded and is_power_of_two(case.factor):
        yield f"{case.lost.rounded} elements of the state lost bits: subnormal in their dtype at this scale."
    if case.lost.nonfinite:
        yield (
            f"{case.lost.nonfinite} elements of the state are infinite or NaN and stay so: the run had broken before, "
            "and no scale mends it."
        )
    if case.lost.negative:
        yield (
            f"{case.lost.negative} elements of averages of squares are below 0 and stay so: no step of "
            f"{case.algorithm.title} makes them, so the file is damaged, or another optimizer's."
        )
    if case.checkpoint is not None:
        yield from _about_the_file(case, case.checkpoint)


def _first(case: Case, found: list[dict[str, Any]]) -> str:
    changed = list(dict.fromkeys(row["hyperparameter"] for row in found if row["now"] != row["set_to"]))
    what = f"set {' and '.join(changed)} as above and leave the rest" if changed else "nothing has to be set"
    how = ""
    if case.exact:
        how = ", bit for bit as long as nothing overflows or turns subnormal"
    elif case.max_grad_norm is not None and is_power_of_two(case.factor):
        how = (
            " up to rounding (torch's clip_grad_norm_ adds 1e-6 to the norm, whatever the scale; to the last bit with "
            f"lossscale.clip_grad_norm_ and eps={1e-6 * case.factor:g})"
        )
    return f"With the loss multiplied by {case.scale}, {what}: the optimizer's run repeats the one without it{how}."


def _outside(case: Case) -> str:
    clipping = "thresholds of clipping by value" if case.max_grad_norm is not None else "clipping thresholds"
    line = (
        f"Outside the optimizer, multiply by {case.scale} what is absolute in gradient units: {clipping}, gradient "
        "noise, thresholds in hooks."
    )
    if case.max_grad_norm is None:
        line += (
            f" Give {CLIP}=1.0 for its row; clip_grad_norm_ adds 1e-6 to the norm: with it runs agree up to rounding."
        )
    return line


def _schedulers(case: Case) -> Iterator[str]:
    scaled = [str(rate["rate"]) for rate in case.rates]
    if scaled:
        yield f"A scheduler's own rates follow lr: {', '.join(scaled)}."
    else:
        yield (
            "A scheduler's own rates (base_lrs, max_lr, eta_min, …) follow lr: construct it with them, or give "
            "--scheduler FILE for its state_dict, which brings the old ones back."
        )


def _about_the_file(case: Case, at: Checkpoint) -> Iterator[str]:
    yield (
        f"{at.path} counts as trained before the loss was multiplied by {case.scale}, and its run goes on as it was. "
        "If it was trained under a factor that is gone now, 16 say, the scale is the inverse, 1/16."
    )
    if case.lost.stateless:
        yield "It holds no states, as before the first step or under SGD without momentum."
    absent = {name: getattr(group.record, name) for group in case.groups for name in group.absent}
    if absent:
        taken = ", ".join(f"{name} {value}" for name, value in absent.items())
        yield f"{at.path} does not say all that {case.algorithm.title} needs; its defaults are taken: {taken}."
    unknown = list(dict.fromkeys(name for group in case.groups for name in group.unknown))
    if unknown:
        yield f"Its groups also hold {', '.join(unknown)}, left as they are: not {case.algorithm.title}'s."
    if at.others:
        yield f"It holds other optimizers too, left as they are: {', '.join(at.others) or 'at its top'}."
