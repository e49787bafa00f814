"""Hyperparameters as typed for ``rescale``: the algorithm's, numbers with commas included, and max_grad_norm."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from ..design.options import parse_options
from ..support.errors import InputError

if TYPE_CHECKING:
    from kernels import Algorithm

VALUES: Final = "NAME=VALUE"
CLIP: Final = "max_grad_norm"
"""A threshold of torch.nn.utils.clip_grad_norm_: no optimizer's, but of degree 1 like the gradient."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Typed:
    """What was typed.

    Attributes:
        options: the algorithm's hyperparameters.
        max_grad_norm: the clipping threshold, or None.
    """

    options: dict[str, Any]
    max_grad_norm: float | None


def parse_values(algorithm: Algorithm, parts: Sequence[str]) -> Typed:
    """``["eps=1e-3", "betas=0.9,0.95", "max_grad_norm=1.0"]`` as numbers.

    Raises:
        InputError: for a name that is unknown or given twice, and a value of the wrong kind.
    """
    shown = " ".join(parts)
    fields = dataclasses.fields(algorithm.hyperparameters)
    tuples = {field.name: len(field.default) for field in fields if isinstance(field.default, tuple)}
    several: dict[str, tuple[float, ...]] = {}
    plain: list[str] = []
    for part in parts:
        name, _, text = part.partition("=")
        if name not in tuples and name != CLIP:
            plain.append(part)
        elif name in several:
            raise InputError(VALUES, shown, f"{name} is given twice; give it once")
        else:
            several[name] = _numbers(name, text, tuples.get(name, 1), shown)
    clip = several.pop(CLIP, (None,))[0]
    if clip is not None and not (math.isfinite(clip) and clip > 0):
        raise InputError(VALUES, shown, f"{CLIP} must be finite and above 0; give the threshold that you clip at")
    options = dict(parse_options(algorithm, plain, VALUES, shown, also=(*tuples, CLIP)))
    return Typed(options={**options, **several}, max_grad_norm=clip)


def _numbers(name: str, text: str, count: int, shown: str) -> tuple[float, ...]:
    try:
        found = tuple(float(item) for item in text.strip("()[]").split(","))
    except ValueError as error:
        raise InputError(VALUES, shown, f"{text!r} is no number; give {name} one such as 0.9") from error
    if len(found) != count:
        what = f"more than one number; give {count} with commas" if count > 1 else "one number; give one"
        raise InputError(VALUES, shown, f"{name} is {what}")
    return found
