"""The conformance cases as data: optimizer, options, recipe, dtype, layout, values and steps.

A case says everything that decides the bits of a run. Nothing here touches a device: `inputs.py` turns a case into
tensors, `compare.py` runs it. Adding an option to be covered is one line in `option_sets.OPTION_SETS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

import kernels

from ..optimizers import registered
from .option_sets import option_sets

DTYPES = tuple(kernels.DTYPES)
RECIPES = ("foreach", "for-loop", "fused")

# Tensor shapes by name. `offset` in the name: every tensor is a view that starts one element into its storage.
LAYOUTS: Mapping[str, tuple[tuple[int, ...], ...]] = MappingProxyType(
    {
        "edges": ((0,), (), (1,), (7,), (1023,), (1024,), (1025,), (4, 33), (2050,), (64,)),
        "offset": ((260,), (67,), (2051,), (1024,), (4096,)),
        "transposed": ((33, 40), (64, 8), (5, 7), (3, 4, 5, 2)),
        "strides": ((33, 40), (64, 8), (5, 7), (3, 4, 5, 2)),
        "long": ((65537,), (65536,), (131076,)),
        "long-offset": ((131076,), (66003,)),
        "tiny": tuple((1 + i % 17,) for i in range(400)),
        "3M": ((3_000_000,), (12,)),
        # Lengths where torch's vectorised CPU loops leave no scalar tail.
        "blocks": ((64,), (1024,), (4096,)),
        "one": ((1000,),),
    }
)

LAYOUT_NOTES: Mapping[str, str] = MappingProxyType(
    {
        "edges": "sizes around what is special: empty, 0-dim, 1, 7, 1,023 to 1,025, 2,050 elements",
        "offset": "every tensor begins one element into its memory, off 16-byte alignment",
        "transposed": "matrices that lie column by column and images channels last, and so do their gradients",
        "strides": "matrices that lie column by column and images channels last, while their gradients lie row by row",
        "long": "tensors of 65,536 to 131,076 elements",
        "long-offset": "long tensors that begin one element into their memory",
        "tiny": "400 tensors of 1 to 17 elements",
        "3M": "3,000,000 elements and 12",
        "blocks": "64, 1,024 and 4,096 elements",
        "one": "one tensor of 1,000 elements",
    }
)

VALUES = ("normal", "wide", "subnormal", "special")
VALUE_NOTES: Mapping[str, str] = MappingProxyType(
    {
        "normal": "normally distributed numbers",
        "wide": "magnitudes from 2^-60 to 2^60, in float16 over its whole range",
        "subnormal": "numbers below the dtype's smallest normal one",
        "special": "+0, -0, +inf, -inf and NaN among normal numbers",
    }
)

DEFAULTS = "defaults"
"""What the options are called of an optimizer that is made without any."""

# What later groups have of their own besides lr, decay and momentum: an optimizer must read all of it per group.
_OTHERS: Mapping[str, Any] = {"betas": (0.8, 0.97), "eps": 1e-5, "alpha": 0.95, "lr_decay": 0.02}


def _as_text(options: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={str(value).replace(' ', '')}" for name, value in sorted(options.items()))


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
        schedule: "constant"; "falling": lr is halved after every second step; "warming": lr is 0 in the first step;
            "cycled": before every later step momentum, or the first beta, is halved, and decay is four times as much.
        groups: number of parameter groups; later groups have another lr and weight decay.
        flags: later groups have amsgrad, centered or nesterov the other way, or else maximize.
        reload_at: index of the step after which a new optimizer, made with other numbers, takes over through
            `state_dict`, or None.
        copied: "deep" or "pickled": after the first step copies of the optimizer and its parameters take over.
        keep_gradients: every step's gradients go into the first step's tensors, as after zero_grad(set_to_none=False).
        idle: every third parameter has no gradient in the first step, and so is one step behind.
        pausing: every third parameter, and the last, have no gradient in the second step.
        closure: the step is given a closure that evaluates the loss, for which gradients must be on.
        repeated: every step has the first one's gradients.
        hooks: a hook is registered to run before every step, and one after it.
        tensor_lr: lr is a tensor, in every group that has one of its own.
        mixed: every second parameter is of float32, as norms are in a bfloat16 model.
        added: the last group is handed over after the first step, through `add_param_group`.
        empty: where tensors without elements lie beside the layout's own: "first" or "last" in every group, a "group"
            of its own before the others, or nowhere ("").
        order: "reversed" hands the parameters over in the reverse order of their creation; with "early" the optimizer
            is made before the parameters have their values, as before a model's checkpoint is read.
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
    pausing: bool = False
    closure: bool = False
    repeated: bool = False
    hooks: bool = False
    tensor_lr: bool = False
    mixed: bool = False
    flags: bool = False
    copied: str = ""
    added: bool = False
    empty: str = ""
    order: str = ""
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
        words = ("idle", "pausing", "closure", "repeated", "hooks", "tensor_lr", "mixed", "flags", "added")
        parts += [word for word in words if getattr(self, word)]
        parts += [f"{name}={getattr(self, name)}" for name in ("copied", "empty", "order") if getattr(self, name)]
        if self.power:
            parts.append(f"loss=2^{self.power}")
        return " ".join(filter(None, parts))

    def option_set(self) -> str:
        """The constructor's options alone, as text."""
        return _as_text(self.options) or DEFAULTS

    def group_options(self) -> list[dict[str, Any]]:
        """What each parameter group has of its own beside the constructor's options, in the optimizer's order."""
        names = registered(self.optimizer).hyperparameter_names
        groups: list[dict[str, Any]] = [{}]
        for index in range(1, self.groups):
            own = {"lr": float(self.options["lr"]) / (1 + index), "weight_decay": 0.01 * index}
            own.update({name: value for name, value in _OTHERS.items() if name in names})
            if self.options.get("momentum"):
                own["momentum"] = 0.5 * float(self.options["momentum"])
            if self.flags:
                own.update({name: not self.options.get(name, False) for name in self.switches()})
            groups.append(own)
        return [{}, *groups] if self.empty == "group" else groups

    def switches(self) -> list[str]:
        """Options that are on or off in a group of its own; empty for an optimizer that has none."""
        taken = {field.name for field in fields(registered(self.optimizer).hyperparameters)}
        # Nesterov's momentum needs one, and no dampening.
        fits = self.options.get("momentum") and not self.options.get("dampening")
        found = [name for name in ("amsgrad", "centered", "nesterov") if name in taken]
        return [name for name in found if name != "nesterov" or fits] or [name for name in taken if name == "maximize"]

    def dtype_of(self, number: int) -> str:
        """The dtype of a parameter, by its number in the order of `shapes`."""
        return "fp32" if self.mixed and number % 2 else self.dtype

    def group_text(self) -> str:
        """The groups' own options as text; "" where they have none."""
        own = [(number, options) for number, options in enumerate(self.group_options()) if options]
        return "; ".join(f"group {number}: {_as_text(options)}" for number, options in own)

    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of all parameters: the layout's, then those without elements."""
        count = {"": 0, "group": 2}.get(self.empty, self.groups)
        return (*LAYOUTS[self.layout], *[(0,)] * count)

    def idles(self, number: int, index: int) -> bool:
        """Whether a parameter has no gradient in a step.

        Args:
            number: of the parameter, in the order of `shapes`.
            index: of the step, from 0.
        """
        late, last = number % 3 == 1, number == len(self.shapes()) - 1
        return (self.idle and index == 0 and late) or (self.pausing and index == 1 and (number % 3 == 2 or last))

    def variant(self) -> tuple[str, ...]:
        """What decides the machine code of a run: cases of one variant go to one worker and compile once."""
        return (self.optimizer, self.recipe, self.dtype, *self.option_text().split())


# Of torch's, the most used first: a campaign that is cut short has seen those.
OPTIMIZERS = ("Adam", "AdamW", "SGD", "RMSprop", "Adagrad")


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
