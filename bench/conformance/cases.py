"""The conformance cases as data: optimizer, options, recipe, dtype, layout, values and steps.

A case says everything that decides the bits of a run. Nothing here touches a device: `inputs.py` turns a case into
tensors, `compare.py` runs it. Adding an option to be covered is one line in `OPTION_SETS`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import kernels

from ..optimizers import registered

DTYPES = tuple(kernels.DTYPES)
RECIPES = ("foreach", "for-loop", "fused")

# Tensor shapes by name. `offset` in the name: every tensor is a view that starts one element into its storage.
LAYOUTS: Mapping[str, tuple[tuple[int, ...], ...]] = MappingProxyType(
    {
        "edges": ((0,), (), (1,), (7,), (1023,), (1024,), (1025,), (4, 33), (2050,), (64,)),
        "offset": ((260,), (67,), (2051,), (1024,), (4096,)),
        "transposed": ((33, 40), (64, 8), (5, 7)),
        # Transposed parameters whose gradients lie row by row.
        "strides": ((33, 40), (64, 8), (5, 7)),
        "long": ((65537,), (65536,), (131076,)),
        "long-offset": ((131076,), (66003,)),
        "tiny": tuple((1 + i % 17,) for i in range(400)),
        "3M": ((3_000_000,), (12,)),
        # Lengths where torch's vectorised CPU loops leave no scalar tail.
        "blocks": ((64,), (1024,), (4096,)),
        "one": ((1000,),),
    }
)

VALUES = ("normal", "wide", "subnormal", "special")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run of an optimizer: `steps` steps over the tensors of `layout`, filled with `values`.

    Attributes:
        optimizer: torch's class name, e.g. "AdamW".
        options: constructor arguments under torch's names; `lr` included.
        recipe: "foreach", "for-loop", "fused" or "cpu-fused".
        dtype: of parameters, gradients and states.
        layout: a name in `LAYOUTS`.
        values: "normal", "wide" (magnitudes 2^-60 to 2^60), "subnormal", or "special" (zeros of both signs, inf, NaN).
        steps: optimizer steps, with fresh gradients each.
        start_step: when positive, the step counter is set to it after the first step, through `state_dict`.
        grad_scale: loss scale the gradients carry, handled as `torch.amp.GradScaler` handles it; None for no scaler.
        found_inf_at: index of a step that reports overflow, or None.
        schedule: "constant", or "falling": lr is halved after every second step.
        groups: number of parameter groups; later groups have another lr and weight decay.
        reload_at: index of the step after which a new optimizer takes over through `state_dict`, or None.
        keep_gradients: every step's gradients go into the first step's tensors, as after zero_grad(set_to_none=False).
        idle: every third parameter has no gradient in the first step, and so is one step behind.
        power: when not 0, the provider runs on 2^power times the loss with mapped hyperparameters, and is compared with
            its own run on the loss: the same parameters, and states that differ by powers of two.
        seed: of the random values.
    """

    optimizer: str
    options: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = "foreach"
    dtype: str = "fp32"
    layout: str = "edges"
    values: str = "normal"
    steps: int = 4
    start_step: int = 0
    grad_scale: float | None = None
    found_inf_at: int | None = None
    schedule: str = "constant"
    groups: int = 1
    reload_at: int | None = None
    keep_gradients: bool = False
    idle: bool = False
    power: int = 0
    seed: int = 0

    def option_text(self) -> str:
        """What differs from the plain optimizer, as canonical text such as "momentum=0.9 nesterov=True"."""
        parts = [self.option_set()]
        if self.grad_scale is not None:
            parts.append(f"grad_scale={self.grad_scale}")
        if self.found_inf_at is not None:
            parts.append(f"found_inf_at={self.found_inf_at}")
        if self.schedule != "constant":
            parts.append(f"schedule={self.schedule}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.start_step:
            parts.append(f"start_step={self.start_step}")
        if self.reload_at is not None:
            parts.append(f"reload_at={self.reload_at}")
        if self.keep_gradients:
            parts.append("gradients kept")
        if self.idle:
            parts.append("idle")
        if self.power:
            parts.append(f"loss=2^{self.power}")
        return " ".join(filter(None, parts))

    def option_set(self) -> str:
        """The constructor's options alone, as text."""
        return " ".join(f"{name}={str(value).replace(' ', '')}" for name, value in sorted(self.options.items()))

    def variant(self) -> tuple[str, ...]:
        """What decides the machine code of a run: cases of one variant go to one worker and compile once."""
        return (self.optimizer, self.recipe, self.dtype, *self.option_text().split())


# Option sets: the first of each list is the plain optimizer. Between them every option takes every kind of value, and
# the pairs known to interact (maximize with decay, amsgrad with decay, dampening with nesterov's absence) meet.
OPTION_SETS: Mapping[str, tuple[Mapping[str, Any], ...]] = MappingProxyType(
    {
        "SGD": (
            {"lr": 0.05},
            {"lr": 0.05, "momentum": 0.9},
            {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.03},
            {"lr": 0.05, "momentum": 0.9, "nesterov": True},
            {"lr": 0.05, "momentum": 0.9, "dampening": 0.3},
            {"lr": 0.05, "weight_decay": 0.03},
            {"lr": 0.05, "maximize": True},
            {"lr": 0.05, "momentum": 0.9, "maximize": True},
            {"lr": 0.05, "momentum": 0.9, "dampening": 0.3, "maximize": True},
            {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.03, "maximize": True},
            {"lr": 0.05, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.03},
            {"lr": 0.05, "momentum": 0.9, "nesterov": True, "maximize": True},
            {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.03},
            {"lr": 0.05, "weight_decay": 0.03, "maximize": True},
            {"lr": 0.05, "momentum": 0.5, "dampening": 1.0},
        ),
        "Adam": (
            {"lr": 0.01},
            {"lr": 0.01, "weight_decay": 0.03},
            {"lr": 0.01, "amsgrad": True},
            {"lr": 0.01, "maximize": True},
            {"lr": 0.01, "maximize": True, "weight_decay": 0.03},
            {"lr": 0.01, "amsgrad": True, "weight_decay": 0.03},
            {"lr": 0.01, "amsgrad": True, "weight_decay": 0.03, "maximize": True},
            {"lr": 0.01, "betas": (0.5, 0.99)},
            {"lr": 0.01, "betas": (0.4, 0.98), "eps": 1e-3},
            {"lr": 0.01, "betas": (0.9, 0.0)},
            {"lr": 0.01, "betas": (0.0, 0.95)},
            {"lr": 0.01, "betas": (0.95, 0.9999), "eps": 0.0, "amsgrad": True},
            {"lr": 0.3, "betas": (0.8, 0.9), "eps": 1e-5, "weight_decay": 0.2},
        ),
        "RMSprop": (
            {"lr": 0.01},
            {"lr": 0.01, "momentum": 0.9},
            {"lr": 0.01, "centered": True},
            {"lr": 0.01, "centered": True, "momentum": 0.9},
            {"lr": 0.01, "weight_decay": 0.03},
            {"lr": 0.01, "maximize": True, "momentum": 0.9, "weight_decay": 0.03},
            {"lr": 0.01, "maximize": True, "centered": True},
            {"lr": 0.01, "alpha": 0.4, "eps": 1e-3, "centered": True},
            {"lr": 0.01, "alpha": 0.0},
            {"lr": 0.01, "alpha": 0.5, "centered": True, "weight_decay": 0.03, "maximize": True, "momentum": 0.5},
            {"lr": 0.01, "alpha": 0.9, "eps": 0.0},
        ),
        "Adagrad": (
            {"lr": 0.05},
            {"lr": 0.05, "lr_decay": 0.013},
            {"lr": 0.05, "weight_decay": 0.03},
            {"lr": 0.05, "initial_accumulator_value": 0.1},
            {"lr": 0.05, "maximize": True},
            {"lr": 0.05, "maximize": True, "weight_decay": 0.3, "lr_decay": 0.01},
            {"lr": 1.0, "eps": 1e-3, "initial_accumulator_value": 0.7},
            {"lr": 0.05, "eps": 0.0, "lr_decay": 0.5},
        ),
    }
)

# Of torch's, the most used first: a campaign that is cut short has seen those.
OPTIMIZERS = ("Adam", "AdamW", "SGD", "RMSprop", "Adagrad")


def option_sets(optimizer: str) -> tuple[Mapping[str, Any], ...]:
    """The options to cover for `optimizer`; AdamW has Adam's, with its own nonzero default decay made explicit."""
    if optimizer == "AdamW":
        return tuple({"weight_decay": 0.0, **options} for options in OPTION_SETS["Adam"])
    return OPTION_SETS[optimizer] if optimizer in OPTION_SETS else _derived_option_sets(optimizer)


def _derived_option_sets(optimizer: str) -> tuple[Mapping[str, Any], ...]:
    """For an algorithm that only the registry knows: its defaults, and each option that can be turned on."""
    algorithm = registered(optimizer)
    changes: list[dict[str, Any]] = [{}]
    for option in dataclasses.fields(algorithm.hyperparameters):
        if isinstance(option.default, bool):
            changes.append({option.name: not option.default})
        elif option.default == 0.0:
            changes.append({option.name: 0.03})
    return tuple({"lr": 0.01, **change} for change in changes if _accepted(algorithm, change))


def _accepted(algorithm: Any, options: Mapping[str, Any]) -> bool:
    try:
        algorithm.hyperparameters(**options)
    except ValueError:
        return False
    return True


def recipes_of(optimizer: str) -> tuple[str, ...]:
    """The recipes that torch has an implementation of on CUDA: RMSprop has no fused one."""
    return tuple(name for name in RECIPES if name in registered(optimizer).recipes)


# (layout, values, steps, grad_scale, found_inf_at, schedule, groups, start_step) tried with every option set.
_EVERYWHERE: tuple[dict[str, Any], ...] = (
    {"layout": "edges"},
    {"layout": "offset", "values": "wide"},
    {"layout": "edges", "values": "special", "steps": 3},
)
# Scaling changes which products a fused kernel contracts, so it meets every option set too, on both memory paths.
_SCALED: tuple[dict[str, Any], ...] = (
    {"layout": "edges", "grad_scale": 3000.0, "found_inf_at": 1},
    {"layout": "offset", "grad_scale": 3000.0, "values": "wide", "steps": 3},
)
# The rest of the dimensions, tried with the plain optimizer and with the richest option set.
_SELECTED: tuple[dict[str, Any], ...] = (
    {"layout": "long", "steps": 2},
    {"layout": "long-offset", "steps": 2},
    {"layout": "tiny"},
    {"layout": "transposed"},
    {"layout": "3M", "steps": 2},
    {"layout": "edges", "values": "subnormal"},
    {"layout": "edges", "values": "wide", "steps": 10},
    {"layout": "edges", "schedule": "falling", "groups": 2, "steps": 5},
    {"layout": "one", "steps": 300},
    {"layout": "edges", "start_step": 999_999},
    {"layout": "edges", "start_step": 1_000},
)


def cuda_cases(
    *, optimizers: Iterable[str] = OPTIMIZERS, dtypes: Iterable[str] = DTYPES, toy: bool = False
) -> Iterator[Case]:
    """Every case of the comparison with torch.optim on CUDA, most important first.

    Plain options come before combinations, ordinary shapes before rare ones, so that a run cut short has covered every
    (optimizer, recipe, dtype). `toy` keeps a handful, for a dry run.
    """
    optimizers, dtypes = tuple(optimizers), tuple(dtypes)
    cells = [(o, r, d) for o in optimizers for d in dtypes for r in recipes_of(o)]

    def build(optimizer: str, recipe: str, dtype: str, options: Mapping[str, Any], shape: dict[str, Any]) -> Case:
        return Case(optimizer=optimizer, recipe=recipe, dtype=dtype, options=options, **shape)

    yield from (build(*cell, option_sets(cell[0])[0], _EVERYWHERE[0]) for cell in cells)
    if toy:
        return
    for depth in range(max(len(option_sets(o)) for o in optimizers)):
        for cell in cells:
            if depth >= len(option_sets(cell[0])):
                continue
            options = option_sets(cell[0])[depth]
            shapes = _EVERYWHERE[1:] if depth == 0 else _EVERYWHERE
            yield from (build(*cell, options, shape) for shape in (*shapes, *_SCALED))
            if depth == 0 or depth == len(option_sets(cell[0])) - 1:
                yield from (build(*cell, options, shape) for shape in _SELECTED)
    from ..providers.torch_optim import constructor_takes

    for optimizer in (o for o in optimizers if constructor_takes(o, "capturable")):
        for dtype in dtypes:
            for recipe in RECIPES[:2]:
                for options in option_sets(optimizer)[:5]:
                    yield build(optimizer, recipe, dtype, {**options, "capturable": True}, _EVERYWHERE[0])


def cpu_cases(*, optimizers: Iterable[str] = ("SGD", "Adam", "AdamW", "Adagrad"), toy: bool = False) -> Iterator[Case]:
    """What real torch on a CPU can be compared with, in float32 without scalar tail: `cpu-fused`, and all of SGD."""
    for optimizer in optimizers:
        for options in option_sets(optimizer)[: 2 if toy else None]:
            for recipe in ("cpu-fused", "foreach", "for-loop") if optimizer == "SGD" else ("cpu-fused",):
                yield Case(optimizer=optimizer, recipe=recipe, options=options, layout="blocks")
