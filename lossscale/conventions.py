"""Where eps sits, from one convention to another: as a function and as ``python -m lossscale convert-eps``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Final

import typer

from .support.arguments import real_number, shown
from .support.cli import JsonOption
from .support.errors import InputError, choose, input_errors
from .support.output import Output

CONVENTIONS: Final = {
    "outside": "m_hat / (sqrt(v_hat) + eps)",
    "inside": "m_hat / sqrt(v_hat + eps)",
    "hat": "lr * sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + eps)",
}
"""Outside the root (torch's optimizers, optax's eps), inside it (optax's eps_root, RMSprop of Keras and TensorFlow),
and eps-hat of Kingma and Ba's section 2 (Adam of Keras and TensorFlow), whose moments are not corrected."""

DEGREES: Final = {"outside": 1, "inside": 2, "hat": 1}
"""How eps follows the loss scale s: it is to be multiplied by ``s**degree``."""


_Range = tuple[Callable[[float], bool], str]

_RANGES: Final[dict[str, _Range]] = {
    "eps": (lambda x: 0 <= x < math.inf, "must be finite and at least 0; give one such as 1e-8"),
    "r": (lambda x: 0 <= x < math.inf, "must be finite and at least 0; give the root of the second moment"),
    "beta2": (lambda x: 0 <= x < 1, "must be at least 0 and below 1; give one such as 0.999"),
    "step": (lambda x: x >= 1, "eps-hat depends on the step; give one from 1 on, inf for long after the start"),
}
"""What each number has to be, and what to give."""


def convert_eps(
    eps: float, source: str, target: str, *, r: float = 0.0, beta2: float = 0.999, step: float | None = None
) -> float:
    """The eps of one convention that divides as another's does, at one value of the root and one step.

    With r the root of the bias-corrected second moment: ``outside`` divides by r + eps, ``inside`` by sqrt(r² + eps),
    ``hat`` at step t by r + eps / sqrt(1 - beta2**t). Outside and hat agree for every r; inside agrees with them at one
    r only, as r + e = sqrt(r² + e² + 2 r e). At r = 0, where eps counts most, the inner eps is the outer one's square.

    Args:
        eps: at least 0.
        source: ``outside``, ``inside`` or ``hat``.
        target: another of them.
        r: where inside and outside shall agree, in units of the gradient.
        beta2: of the second moment, at least 0 and below 1; used where ``hat`` takes part.
        step: t, from 1 on, ``math.inf`` for long after the start; needed where ``hat`` takes part.

    Raises:
        TypeError: a number is none.
        ValueError: for an unknown convention, a number out of range, a step that is missing, or a result above or below
            every number.
    """
    given: list[tuple[str, Any]] = [("source", source), ("target", target)]
    for name, value in given:
        if not isinstance(value, str) or value not in CONVENTIONS:
            raise ValueError(f"{name} {shown(value)}: unknown; give one of {', '.join(CONVENTIONS)}")
    eps, r = real_number("eps", eps, *_RANGES["eps"]), real_number("r", r, *_RANGES["r"])
    beta2 = real_number("beta2", beta2, *_RANGES["beta2"])
    if step is not None:
        step = real_number("step", step, *_RANGES["step"])
    elif "hat" in (source, target):
        raise ValueError(f"step None: {_RANGES['step'][1]}")
    outside = eps
    correction = math.sqrt(-math.expm1(step * math.log(beta2)) if beta2 else 1.0) if step is not None else math.nan
    if source == "hat":
        outside = eps / correction
    elif source == "inside":
        outside = eps / (math.hypot(r, math.sqrt(eps)) + r) if eps else 0.0
    if source == target:
        return eps
    converted = outside
    if target == "hat":
        converted = outside * correction
    elif target == "inside":
        converted = outside * (outside + 2.0 * r)
    if math.isinf(converted):
        raise ValueError(f"eps {eps!r}: is beyond every number as {target} eps; give a smaller one")
    if eps and not converted:
        raise ValueError(f"eps {eps!r}: is below every number as {target} eps; give a larger one")
    return converted


EpsArgument = Annotated[float, typer.Argument(metavar="EPS", help="The value to convert.", show_default=False)]
SourceOption = Annotated[str, typer.Option("--from", metavar="|".join(CONVENTIONS), help="Where EPS sits.")]
TargetOption = Annotated[str, typer.Option("--to", metavar="|".join(CONVENTIONS), help="Where the new one shall sit.")]
ROption = Annotated[
    float, typer.Option("--r", metavar="R", help="The root of the second moment at which inside shall agree.")
]
Beta2Option = Annotated[float, typer.Option("--beta2", metavar="B", help="Of the second moment, for hat.")]
StepOption = Annotated[
    float | None, typer.Option("--step", metavar="T", help="The step at which hat shall agree; inf for late.")
]


def command(
    eps: EpsArgument,
    source: SourceOption = "outside",
    target: TargetOption = "inside",
    r: ROption = 0.0,
    beta2: Beta2Option = 0.999,
    step: StepOption = None,
    as_json: JsonOption = False,
) -> None:
    """The same eps in another convention.

    outside: sqrt(v_hat) + eps, torch and optax's eps. inside: sqrt(v_hat + eps), optax's eps_root, RMSprop of Keras.
    hat: eps beside a root that is not bias-corrected, Adam of Keras and TensorFlow.
    """
    source, target = choose("--from", source, CONVENTIONS), choose("--to", target, CONVENTIONS)
    for name, value in (("eps", eps), ("r", r), ("beta2", beta2), ("step", step)):
        fits, must = _RANGES[name]
        unneeded = name == "step" and value is None and "hat" not in (source, target)
        if not unneeded and not (value is not None and fits(value)):
            raise InputError("EPS" if name == "eps" else f"--{name}", "" if value is None else value, must)
    with input_errors("EPS", eps):
        found = convert_eps(eps, source, target, r=r, beta2=beta2, step=step)
    rows = [
        {"convention": name, "divides": CONVENTIONS[name], "eps": value, "degree": DEGREES[name]}
        for name, value in ((source, eps), (target, found))
    ]
    with Output(as_json) as output:
        output.table(rows, eps=found, r=r, step=step)
        if (source == "inside") != (target == "inside"):
            output.note(f"They agree at r = {r:g}: for other roots of the second moment give --r.")
        if "hat" in (source, target) and source != target:
            output.note(f"They agree at step {step:g}: eps-hat weighs 1/sqrt(1 - {beta2:g}^t) times as much at step t.")
        output.note("With the loss multiplied by s, eps is multiplied by s to the power of its degree.")
