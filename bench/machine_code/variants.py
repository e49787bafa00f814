"""Every step kernel that can be launched, from the registry of `kernels`, and a covering set of them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
COVERING_LIMIT = 36
QUICK_LIMIT = 20


@dataclass(frozen=True, kw_only=True)
class Dtypes:
    """Dtypes of one launch by name: parameters and gradients, states, and the low-precision copy ("" for none)."""

    param: str
    state: str
    copy: str = ""

    def __str__(self) -> str:
        text = self.param if self.state == self.param else f"{self.param}, {self.state} state"
        return f"{text}, {self.copy} copy" if self.copy else text


UNIFORM = tuple(Dtypes(param=name, state=name) for name in ("fp32", "bf16", "fp16"))
MIXED = tuple(
    Dtypes(param="fp32", **other)
    for other in (
        {"state": "bf16"},
        {"state": "fp16"},
        {"state": "fp32", "copy": "bf16"},
        {"state": "fp32", "copy": "fp16"},
    )
)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One kernel to compile.

    Attributes:
        algorithm, recipe: names in the registry of `kernels`.
        flags: bit mask of `kernels.rounding.flags`, SCALED included where a grad_scale is given.
        states: bit k is set where state k is kept.
        dtypes: of the tensors.
        scaled: whether a grad_scale is taken out in the kernel.
        found_inf: whether the kernel reads a found_inf.
        rows: rows of host scalars that come as arguments, 0 where they are a table.
        arch: such as "sm_90".
    """

    algorithm: str
    recipe: str
    flags: int
    states: int
    dtypes: Dtypes
    scaled: bool
    found_inf: bool
    rows: int = 0
    arch: str

    def features(self) -> tuple[object, ...]:
        """What the covering set should mix."""
        return (self.algorithm, self.recipe, self.flags & 127, str(self.dtypes), self.scaled, self.rows, self.arch)


def reachable(algorithm: Any) -> Iterator[tuple[int, int]]:
    """(flags, states) of every combination of on-off options that the algorithm's hyperparameters accept.

    A flag is tried on and off, a number whose default is 0 or that turns a term off at 0 as 0 and 0.5.
    """
    choices: dict[str, tuple[Any, ...]] = {}
    for field in dataclasses.fields(algorithm.hyperparameters):
        if isinstance(field.default, bool):
            choices[field.name] = (False, True)
        elif field.default == 0.0 or field.name == "weight_decay":
            choices[field.name] = (0.0, 0.5)
    seen: set[tuple[int, int]] = set()
    for values in itertools.product(*choices.values()):
        try:
            hyper = algorithm.hyperparameters(**dict(zip(choices, values, strict=True)))
        except ValueError:
            continue
        kept = algorithm.state_names(hyper)
        states = sum(1 << k for k, state in enumerate(algorithm.states) if state.name in kept)
        found = (algorithm.flags(hyper), states)
        if found not in seen:
            seen.add(found)
            yield found


def variants(architectures: Iterable[str] = ARCHITECTURES, algorithms: Iterable[str] | None = None) -> list[Variant]:
    """Every kernel that can be launched, once each: algorithms and recipes that share a rule share its kernels."""
    from kernels import ALGORITHMS, get_algorithm
    from kernels import flags as bits
    from kernels.launch.carried import COUNTS

    found: list[Variant] = []
    seen: set[tuple[Any, ...]] = set()
    architectures = tuple(architectures)
    for name in ALGORITHMS if algorithms is None else algorithms:
        algorithm = get_algorithm(name)
        options = list(reachable(algorithm))
        for recipe in algorithm.recipes.values():
            carried = (0, *COUNTS) if algorithm.rows_count(recipe) else (0,)
            for (flags, states), scaled, rows in itertools.product(options, (False, True), carried):
                found_inf = scaled and (recipe.device_step or not algorithm.stateful_step)
                edge = (flags, states) in (options[0], options[-1])
                for dtypes in (*UNIFORM, *(MIXED if edge and not scaled else ())):
                    if dtypes.state != dtypes.param and not states:
                        continue
                    mask = flags | (bits.SCALED.value if scaled else 0)
                    unscale = recipe.unscale if scaled else ""
                    key = (
                        recipe.rule,
                        recipe.lanes,
                        len(recipe.columns),
                        mask,
                        states,
                        dtypes,
                        unscale,
                        found_inf,
                        rows,
                    )
                    if key in seen:
                        continue
                    seen.add(key)
                    found += [
                        Variant(
                            algorithm=name,
                            recipe=recipe.name,
                            flags=mask,
                            states=states,
                            dtypes=dtypes,
                            scaled=scaled,
                            found_inf=found_inf,
                            rows=rows,
                            arch=arch,
                        )
                        for arch in architectures
                    ]
    return found


def covering(found: list[Variant], limit: int = COVERING_LIMIT) -> list[Variant]:
    """Few variants in which as many pairs as possible of algorithm, recipe, options, dtype, scaling and target meet."""
    from ..pairwise import cover

    return cover([(variant, variant.features()) for variant in found], limit)
