"""Which numbers deserve a warning: a threshold, the number and a remedy each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from . import margins, steps
from .elements import Elements
from .numbers import Numbers

RHO: Final = 0.1
"""From here on eps decides a part of the update that a change of the loss scale would be seen by."""
_SGD_LIKE: Final = 0.5
_TARGET: Final = 0.01
UNDERFLOW: Final = 0.05
RATCHET: Final = 0.5
LOST: Final = 0.5
ZERO_V: Final = 0.01
_FLOAT32_BITS: Final = 24


_Found = tuple[str, float, str]
"""Kind, number and text."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A warning.

    Attributes:
        kind: a word for it; of one kind a group has one.
        group: its place in ``param_groups``; -1 where the run as a whole is meant.
        number: what crossed the threshold.
        text: one line with the number and what to do.
    """

    kind: str
    group: int
    number: float
    text: str

    def __str__(self) -> str:
        """The line, with the group before it."""
        where = f"group {self.group}: " if self.group >= 0 else ""
        return f"{where}{self.text}"


def find(elements: Elements, numbers: Numbers, group: int, *, fp16: bool = False) -> Iterator[Finding]:
    """The warnings of a group.

    Args:
        elements: of the group.
        numbers: counted over them.
        group: its place.
        fp16: whether gradients pass through float16, so that its underflow matters.
    """
    for kind, number, text in _all(elements, numbers, fp16):
        yield Finding(kind=kind, group=group, number=number, text=text)


def _all(e: Elements, numbers: Numbers, fp16: bool) -> Iterator[_Found]:
    found = numbers.group
    bad = found.get("nonfinite_state", 0.0)
    if bad > 0:
        text = f"{bad:.2%} of the states are infinite or NaN{_worst(e, numbers, 'nonfinite_state')}: go back to a "
        yield "nonfinite-state", bad, text + "checkpoint from before, with a smaller loss scale or clipping"
    negative = found.get("v_negative", 0.0)
    if negative > 0:
        text = f"{negative:.2%} of v are below 0{_worst(e, numbers, 'v_negative')}, which no step of "
        text += (
            f"{e.algorithm.title} makes, and have no root: the state is damaged, or another optimizer's; go back to a "
        )
        yield "negative-v", negative, text + "checkpoint from before"
    yield from _of_eps(e, numbers)
    underflow = found.get("fp16_underflow", 0.0)
    if fp16 and underflow >= UNDERFLOW:
        text = f"{underflow:.1%} of the gradients other than 0 are below 2^-14 once multiplied by the loss scale "
        text += f"{e.backward_scale:g}, where float16 loses bits{_worst(e, numbers, 'fp16_underflow')}"
        yield "fp16-underflow", underflow, text + ": raise the loss scale, or use bfloat16"
    for name in ("v_unchanged", "v_stall"):
        if found.get(name, 0.0) >= RATCHET and _roundings_hold(e):
            yield "ratchet", found[name], _ratchet(e, numbers, name)
    lost = found.get("update_lost", 0.0)
    if lost >= LOST and not e.exact_sums:
        text = f"{lost:.1%} of the updates are below half an ulp of their parameter and are lost"
        text += f"{_worst(e, numbers, 'update_lost')}: keep float32 masters (kernels: master_weights=True), or round "
        yield "lost-updates", lost, text + "stochastically"
    yield from _inert_decay(e, found.get("decay_per_step", 0.0))


def _of_eps(e: Elements, numbers: Numbers) -> Iterator[_Found]:
    found = numbers.group
    rho = found.get("rho", 0.0)
    if rho >= RHO:
        target = margins.eps_for_share(e, _TARGET)
        text = f"eps = {e.eps:g} decides {rho:.1%} of the update{_worst(e, numbers, 'rho')}"
        text += ", nearer to SGD with lr/eps than to itself" if rho >= _SGD_LIKE else ""
        text += ": the loss's scale shows; "
        text += f"eps below {target:.1e} would decide less than {_TARGET:.0%}, or " if target else ""
        yield "eps-decides", rho, text + "multiply the loss"
    moving, infinite = found.get("v_zero_update", 0.0), found.get("nonfinite_update", 0.0)
    if moving >= ZERO_V:
        text = f"v is 0 in {found.get('v_zero_moving', 0.0):.2%} of the elements and they are updated all the same, by "
        text += f"m/eps: {moving:.1%} of the whole update{_worst(e, numbers, 'v_zero_update')}"
        yield "zero-v", moving, text + ": keep v in float32, or multiply the loss"
    elif infinite > 0 and not found.get("nonfinite_state") and not found.get("v_negative"):
        text = f"{infinite:.2%} of the updates are infinite or NaN, with v = 0 and eps = {e.eps or 0:g}"
        yield "nonfinite-update", infinite, text + ": give an eps above 0, or keep v in float32"
    absorbed, compute = found.get("eps_absorbed", 0.0), {layer.compute.name for layer in e.layers}
    if compute == {"fp16"} and e.eps is not None and e.eps <= _HALF_SUBNORMAL:
        text = f"eps = {e.eps:g} is 0 in float16, in which root and eps are added ({absorbed:.0%} of v > 0 absorb it): "
        text += "elements with v = 0 become NaN; use fused=True or float32 masters, or an eps of at least 6e-8"
        yield "eps-is-zero", e.eps, text


_HALF_SUBNORMAL: Final = 2.0**-25
"""What float16 rounds to 0."""


def _roundings_hold(e: Elements) -> bool:
    """Whether v may be held away from its goal: else it stands still because the gradients do, in float32 too."""
    average = steps.memory(e.hyper)
    if average:
        return 1 - 1 / average > _largest_beta2(e)
    return any(layer.state.significant_bits < _FLOAT32_BITS for layer in e.layers)


def _ratchet(e: Elements, numbers: Numbers, which: str) -> str:
    name = "/".join(sorted({layer.state.name for layer in e.layers}))
    average = steps.memory(e.hyper)
    what = f"beta2 = {1 - 1 / average:.4g}" if average else "a sum that grows"
    remedy = f"keep it in float32, or use beta2 of {_largest_beta2(e):.3g} or less" if average else "keep it in float32"
    said = "did not change by the step" if which == "v_unchanged" else "would not change by a step"
    text = f"{numbers.group[which]:.1%} of v > 0 ({name}, {what}) {said}{_worst(e, numbers, which)}: its roundings "
    return text + f"hold it where it is; {remedy}"


def _largest_beta2(e: Elements) -> float:
    """Up to which an average moves inside every binade: 1 - 2^-p."""
    return 1.0 - float(2.0 ** -min(layer.state.significant_bits for layer in e.layers))


def _inert_decay(e: Elements, decay: float) -> Iterator[_Found]:
    if decay <= 0 or e.exact_sums:
        return
    borders = [(2.0 ** -(layer.param.significant_bits + 1), layer.param.name) for layer in e.layers]
    border, name = max(borders)
    if decay < border:
        text = f"lr · weight_decay = {decay:.1e} is below half an ulp of 1 in {name} ({border:.1e}): multiplied by 1 - "
        text += "lr · weight_decay no parameter changes; keep float32 masters, or decay by more in fewer steps"
        yield "inert-decay", decay, text


def _worst(e: Elements, numbers: Numbers, name: str) -> str:
    """The layer with the largest of this number, where there are several."""
    there = [(layer[name], place) for place, layer in enumerate(numbers.layers) if name in layer]
    return f" (most in {e.layers[max(there)[1]].name}: {max(there)[0]:.1%})" if len(there) > 1 else ""
