"""torch's own optimizer table, or our frozen copy of its cases where torch's testing module cannot be imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

NAMES = ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad")


@dataclass(frozen=True, kw_only=True)
class Case:
    """Constructor arguments."""

    optimizer: str
    description: str
    options: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.optimizer}-{self.description.replace(' ', '_')}"


@dataclass(frozen=True, kw_only=True)
class ErrorCase(Case):
    """Constructor arguments that torch refuses."""

    params: Any = None
    error: type[BaseException] = ValueError
    match: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


def _tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values[0] if len(values) == 1 else values)


_ADAM: list[tuple[str, dict[str, Any]]] = [
    ("default", {}),
    ("non-default lr", {"lr": 0.01}),
    ("nonzero weight_decay", {"weight_decay": 0.1}),
    ("maximize", {"weight_decay": 0.1, "maximize": True}),
    ("amsgrad", {"weight_decay": 0.1, "amsgrad": True}),
]
FROZEN: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "SGD": [
        ("default", {}),
        ("non-default lr", {"lr": 1e-2}),
        ("tensor lr", {"lr": _tensor(0.001)}),
        ("non-zero weight_decay", {"weight_decay": 0.5}),
        ("momentum", {"momentum": 0.9}),
        ("maximize", {"weight_decay": 0.1, "maximize": True}),
        ("dampening", {"momentum": 0.9, "dampening": 0.5}),
        ("weight_decay w/ momentum", {"momentum": 0.9, "weight_decay": 0.1}),
        ("nesterov", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ],
    "Adam": _ADAM,
    "AdamW": _ADAM,
    "RMSprop": [
        ("default", {}),
        ("non-default lr", {"lr": 1e-3}),
        ("nonzero weight_decay", {"weight_decay": 0.1}),
        ("maximize", {"maximize": True}),
        ("centered", {"weight_decay": 0.1, "centered": True}),
        ("maximize, weight_decay", {"maximize": True, "weight_decay": 0.1}),
        ("momentum", {"weight_decay": 0.1, "centered": True, "momentum": 0.1}),
        (
            "maximize, centered, weight_decay, w/ momentum",
            {"weight_decay": 0.1, "centered": True, "momentum": 0.1, "maximize": True},
        ),
    ],
    "Adagrad": [
        ("default", {}),
        ("nonzero weight_decay", {"weight_decay": 0.1}),
        ("maximize", {"weight_decay": 0.1, "maximize": True}),
        ("non-default lr", {"lr": 0.1}),
        ("initial_accumulator_value", {"initial_accumulator_value": 0.1, "weight_decay": 0.1}),
        ("lr_decay", {"lr": 0.1, "lr_decay": 0.5, "weight_decay": 0.1}),
        ("Tensor lr", {"lr": _tensor(0.001)}),
    ],
}
_BETAS = "betas must be either both floats or both Tensors"
_ADAM_ERRORS: list[tuple[str, dict[str, Any], str]] = [
    ("beta1", {"lr": 1e-2, "betas": (1.0, 0.0)}, "Invalid beta parameter at index 0: 1.0"),
    ("weight_decay", {"lr": 1e-2, "weight_decay": -1}, "Invalid weight_decay value: -1"),
    ("tensor lr, foreach", {"lr": _tensor(0.001), "foreach": True}, "lr as a Tensor is not supported for capturable"),
    ("mixed betas", {"lr": 1e-2, "betas": (0.9, _tensor(0.99))}, _BETAS),
    ("mixed betas, first", {"lr": 1e-2, "betas": (_tensor(0.9), 0.99)}, _BETAS),
    (
        "tensor betas, foreach",
        {"lr": 1e-2, "betas": (_tensor(0.9), _tensor(0.99)), "foreach": True},
        r"betas\[0\] as a Tensor is not supported for capturable=False and foreach=True",
    ),
]
FROZEN_ERRORS: dict[str, list[tuple[str, dict[str, Any], str]]] = {
    "SGD": [("momentum", {"lr": 1e-2, "momentum": -0.5}, "Invalid momentum value: -0.5")],
    "Adam": _ADAM_ERRORS,
    "AdamW": _ADAM_ERRORS,
    "RMSprop": [("momentum", {"lr": 1e-2, "momentum": -1.0}, "Invalid momentum value: -1.0")],
    "Adagrad": [("lr_decay", {"lr": 1e-2, "lr_decay": -0.5}, "Invalid lr_decay value: -0.5")],
}


def frozen_cases() -> list[Case]:
    return [Case(optimizer=n, description=text, options=dict(o)) for n in NAMES for text, o in FROZEN[n]]


def frozen_errors() -> list[ErrorCase]:
    """Ours in each algorithm, and those of every optimizer."""
    cases: list[ErrorCase] = []
    for name in NAMES:
        one, other = torch.nn.Parameter(torch.randn(1)), torch.nn.Parameter(torch.randn(1))
        named, more = [("a", one), other], [{"params": [one]}, {"params": [("b", other)]}]
        shared: list[tuple[str, dict[str, Any], Any, type[BaseException], str]] = [
            ("no iterable", {}, torch.randn(1), TypeError, "should be an iterable of Tensors or dicts"),
            ("duplicate", {}, [one, one], UserWarning, ".*a parameter group with duplicate parameters.*"),
            (
                "in two groups",
                {},
                [{"params": one}, {"params": one}],
                ValueError,
                "some parameters appear in more than one parameter group",
            ),
            ("two rates", {"lr": _tensor(0.001, 0.001)}, [one], ValueError, "Tensor lr must be 1-element"),
            ("half named", {}, named, ValueError, "all optimizer params should be with/without names"),
            ("named group", {}, more, ValueError, "all optimizer param groups should be with/without names"),
        ]
        own = [(text, options, [one], ValueError, match) for text, options, match in FROZEN_ERRORS[name]]
        cases += [
            ErrorCase(optimizer=name, description=text, options=options, params=params, error=error, match=match)
            for text, options, params, error, match in (*shared, *own)
        ]
    return cases


def _database() -> dict[str, Any]:
    from torch.testing._internal.common_optimizers import optim_db

    return {info.optim_cls.__name__: info for info in optim_db if info.optim_cls.__name__ in NAMES}


try:
    DATABASE = _database()
except ImportError:
    DATABASE = {}


def torch_cases() -> list[Case]:
    return [
        Case(optimizer=name, description=made.desc, options=dict(made.kwargs))
        for name, info in DATABASE.items()
        for made in info.optim_inputs_func("cpu")
    ]


def torch_errors() -> list[ErrorCase]:
    cases = []
    for name, info in DATABASE.items():
        for case in info.optim_error_inputs_func("cpu", torch.float32):
            made = case.optimizer_error_input
            cases.append(
                ErrorCase(
                    optimizer=name,
                    description=made.desc,
                    options=dict(made.kwargs),
                    params=made.params,
                    error=case.error_type,
                    match=case.error_regex,
                )
            )
    return cases


CASES = torch_cases() or frozen_cases()
ERRORS = torch_errors() or frozen_errors()
