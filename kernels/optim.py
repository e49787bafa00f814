"""Drop-in torch.optim.Optimizer classes, built from the registry.

``kernels.Adam(...)`` takes what ``torch.optim.Adam(...)`` takes, plus ``recipe=`` (whose rounding) and ``backend=``
(what executes it). A step is one launch per (device, dtypes, options), whatever the number of tensors and groups.
"""

from __future__ import annotations

import dataclasses
import inspect
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from .algorithm import Algorithm, Recipe, Row
from .launch import TRITON_DTYPE, Bucket, Mirror, Tables, resolve_backend, step_bucket
from .powers import power_table

_PLAIN = frozenset({float, int, bool})


def _number(value: Any) -> Any:
    """A hyperparameter as plain numbers: tensors are read, betas become a tuple."""
    if isinstance(value, (tuple, list)):
        return tuple(map(_number, value))
    return value.item() if isinstance(value, Tensor) else value


_GRAD = operator.attrgetter("grad")


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tensor.device, tensor.shape, tensor.stride()


@dataclass(kw_only=True)
class _Plan:
    """A bucket and what is kept for it between steps.

    ``steps`` holds the step number of every tensor; each ``state["step"]`` is a view of one of its elements, so all of
    them advance in one operation. ``device_steps`` is the same tensor where the rule reads it, else zeros in its place.
    """

    flags: int
    bucket: Bucket
    groups: np.ndarray
    entries: list[dict[str, Any]]
    names: tuple[str, ...]
    steps: Tensor
    device_steps: Tensor
    first: np.ndarray
    any_first: bool
    tables: Tables = field(default_factory=Tables)
    rows: Mirror = field(default_factory=Mirror)
    sent_rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        distinct, self._row_of_group = np.unique(self.groups, return_inverse=True)
        self.distinct_groups: list[int] = distinct.tolist()

    def rows_of(self, numbers: np.ndarray | None) -> tuple[list[tuple[int, float, bool]], np.ndarray]:
        """The distinct (group, step, first) among the tensors, and which of them each tensor has.

        Args:
            numbers: each tensor's step, or None where no host scalar depends on it.
        """
        if numbers is None or len(numbers) == 1 or (numbers == numbers[0]).all():
            number = 0.0 if numbers is None else float(numbers[0])
            if not self.any_first or self.first.all():
                return [(group, number, self.any_first) for group in self.distinct_groups], self._row_of_group
        if not self.any_first:
            self.first[:] = False
        steps = [0.0] * len(self.groups) if numbers is None else numbers.tolist()
        keys: dict[tuple[int, float, bool], int] = {}
        members = zip(self.groups.tolist(), steps, self.first.tolist(), strict=True)
        row_of = np.array([keys.setdefault(key, len(keys)) for key in members])
        return list(keys), row_of


class StepOptimizer(Optimizer):
    """Base of the drop-ins; subclasses are made by `make_optimizer`."""

    algorithm: ClassVar[Algorithm]

    def __init__(self, params: Any, defaults: dict[str, Any], *, recipe: str, backend: str) -> None:
        self._recipe_name = recipe
        self._backend = backend
        self._plans: list[_Plan] | None = None
        self._hypers: dict[Any, Any] = {}
        super().__init__(params, defaults)
        self._check_params()
        # In-kernel unscaling equals torch's fused kernels; other recipes leave it to GradScaler.unscale_, as torch does.
        self._step_supports_amp_scaling = recipe == "fused"
        if self.algorithm.eager_state:
            for group in self.param_groups:
                for p in group["params"]:
                    self._init_state(p, self._hyper(group))

    # -- what a user sees --------------------------------------------------------------------------------------------

    @property
    def recipe(self) -> Recipe:
        """Whose rounding this optimizer reproduces."""
        return self.algorithm.recipe(self._recipe_name)

    @property
    def backend(self) -> str:
        """The backend asked for (``auto`` is resolved per device)."""
        return self._backend

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as torch does."""
        super().add_param_group(param_group)
        self._plans = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._plans = None
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)
        for entry in self.state.values():
            if "step" in entry and not torch.is_tensor(entry["step"]):
                entry["step"] = torch.tensor(float(entry["step"]), dtype=torch.float32)

    def __getstate__(self) -> dict[str, Any]:
        # torch keeps defaults, state and param_groups; the plans are rebuilt from them.
        kept = ("_recipe_name", "_backend", "_step_supports_amp_scaling")
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in kept}, "_plans": None, "_hypers": {}}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One optimization step, in place.

        Args:
            closure: re-evaluates the model and returns the loss.

        Returns:
            The closure's value, or None.

        Raises:
            RuntimeError: for a sparse gradient.
            TypeError: for complex or float64 parameters, or a gradient whose dtype is not float32, bfloat16 or float16.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        grad_scale = getattr(self, "grad_scale", None)
        found_inf = getattr(self, "found_inf", None)
        if found_inf is not None and not self._skips_on_device():
            if float(found_inf) == 1.0:
                return loss
            found_inf = None
        hypers = [self._hyper(group) for group in self.param_groups]
        for plan in self._current_plans(hypers):
            self._step_plan(plan, hypers, grad_scale, found_inf)
        return loss

    # -- one bucket --------------------------------------------------------------------------------------------------

    def _skips_on_device(self) -> bool:
        """Whether found_inf can be left to the kernel: the step is on the device, and no first step is special."""
        return self.recipe.device_step or (
            not self.algorithm.stateful_step
            and not any(plan.any_first for plan in self._current_plans([self._hyper(g) for g in self.param_groups]))
        )

    def _step_plan(self, plan: _Plan, hypers: list[Any], grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        recipe, device = self.recipe, plan.bucket.device
        plan.steps.add_(1)
        rows = self._send_rows(plan, hypers)
        step_bucket(
            recipe,
            plan.flags,
            plan.bucket,
            rows=rows,
            steps=plan.device_steps,
            powers=power_table(device).values,
            grad_scale=grad_scale,
            found_inf=found_inf,
            backend=self._backend,
            tables=plan.tables,
        )
        if found_inf is not None:
            plan.steps.sub_(found_inf.to(plan.steps.device))
        plan.any_first = False

    def _send_rows(self, plan: _Plan, hypers: list[Any]) -> Tensor:
        """The host scalars of this step, on the device."""
        recipe, device = self.recipe, plan.bucket.device
        powers = power_table(device)
        numbers: np.ndarray | None = None
        if self.algorithm.step_in_row and not recipe.device_step:
            if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
                raise RuntimeError(
                    f"CUDA graph capture of {self.algorithm.title} with recipe {recipe.name!r}, whose step is counted "
                    "on the host; use recipe='fused', or capturable=True where torch has it"
                )
            numbers = plan.steps.numpy(force=True)
        keys, plan.bucket.row_of = plan.rows_of(numbers)
        rows = [recipe.row(hypers[group], number, first, powers) for group, number, first in keys]
        if plan.rows.device is None or rows != plan.sent_rows:
            plan.sent_rows = rows
            return plan.rows.send(np.array(rows, np.float64), device)
        return plan.rows.device

    def refresh(self) -> None:
        """Send changed hyperparameters to the device, for CUDA graphs captured from `step`: call it before a replay."""
        hypers = [self._hyper(group) for group in self.param_groups]
        for plan in self._plans or ():
            self._send_rows(plan, hypers)

    # -- from groups to buckets --------------------------------------------------------------------------------------

    def _hyper(self, group: dict[str, Any]) -> Any:
        key = tuple(map(group.__getitem__, self.algorithm.hyperparameter_names))
        if not _PLAIN.issuperset(map(type, key)):
            key = tuple(map(_number, key))
        if key not in self._hypers:
            # Schedules bring ever new values: keep few.
            if len(self._hypers) > 256:
                self._hypers.clear()
            values = dict(zip(self.algorithm.hyperparameter_names, key, strict=True))
            self._hypers[key] = self.algorithm.hyperparameters(**values)
        return self._hypers[key]

    def _check_params(self) -> None:
        for group in self.param_groups:
            self._hyper(group)
            for p in group["params"]:
                if p.dtype not in TRITON_DTYPE:
                    raise TypeError(
                        f"params: a parameter of {p.dtype}; these kernels step float32, bfloat16 and float16, "
                        f"use torch.optim.{self.algorithm.title} for others"
                    )
                resolve_backend(self._backend, p.device)

    def _init_state(self, p: Tensor, hyper: Any) -> bool:
        """Create what is missing of a parameter's state; True before its first update."""
        entry = self.state[p]
        names = self.algorithm.state_names(hyper)
        first = any(entry.get(name) is None for name in names)
        if self.algorithm.stateful_step and "step" not in entry:
            entry["step"] = torch.tensor(0.0, dtype=torch.float32, device=self._step_device(p))
        for name in names:
            if entry.get(name) is None:
                entry[name] = torch.full_like(p, self.algorithm.fill(hyper), memory_format=torch.preserve_format)
        return first

    def _step_device(self, p: Tensor) -> torch.device:
        on_device = self.recipe.device_step or self.defaults.get("capturable", False)
        return p.device if on_device else torch.device("cpu")

    def _current_plans(self, hypers: list[Any]) -> list[_Plan]:
        """The buckets of the parameters that have gradients; rebuilt when anything but addresses changed."""
        if self._plans is None or not self._plans_hold(self._plans, hypers):
            self._plans = self._make_plans()
        return self._plans

    def _plans_hold(self, plans: list[_Plan], hypers: list[Any]) -> bool:
        """Whether every bucket still holds, with its new gradients taken over.

        Written with C-level maps: with 10,000 parameters every Python-level loop here is a millisecond of each step.
        """
        everything = list(chain.from_iterable(group["params"] for group in self.param_groups))
        with_grad = sum(map(operator.is_not, map(_GRAD, everything), repeat(None)))
        if with_grad != sum(len(plan.entries) for plan in plans):
            return False
        return all(self._plan_holds(plan, hypers) for plan in plans)

    def _plan_holds(self, plan: _Plan, hypers: list[Any]) -> bool:
        if any(self.algorithm.flags(hypers[group]) != plan.flags for group in plan.distinct_groups):
            return False
        bucket = plan.bucket
        if not all(map(operator.is_, map(self.state.get, bucket.params), plan.entries)):
            return False
        try:
            for name, tensors in zip(plan.names, filter(None, bucket.states), strict=True):
                if not all(map(operator.is_, map(operator.itemgetter(name), plan.entries), tensors)):
                    return False
        except KeyError:
            return False
        grads = list(map(_GRAD, bucket.params))
        if not all(map(operator.is_, grads, bucket.grads)):
            for grad, old in zip(grads, bucket.grads, strict=True):
                if grad is not old and (grad is None or grad.is_sparse or _layout(grad) != _layout(old)):
                    return False
            bucket.grads = grads
        return True

    def _make_plans(self) -> list[_Plan]:
        buckets: dict[Any, list[tuple[int, Tensor, Tensor, dict[str, Any], bool]]] = {}
        names_of: dict[Any, tuple[str, ...]] = {}
        for number, group in enumerate(self.param_groups):
            hyper = self._hyper(group)
            flags, names = self.algorithm.flags(hyper), self.algorithm.state_names(hyper)
            for p in group["params"]:
                if p.grad is None:
                    continue
                grad = self._checked_grad(p)
                first = self._init_state(p, hyper)
                entry = self.state[p]
                state_dtype = entry[names[0]].dtype if names else None
                key = (p.device, p.dtype, grad.dtype, state_dtype, flags)
                names_of[key] = names
                buckets.setdefault(key, []).append((number, p, grad, entry, first))
        return [self._make_plan(key[-1], names_of[key], members) for key, members in buckets.items()]

    def _make_plan(
        self, flags: int, names: tuple[str, ...], members: list[tuple[int, Tensor, Tensor, dict[str, Any], bool]]
    ) -> _Plan:
        groups, params, grads, entries, first = (list(column) for column in zip(*members, strict=True))
        states: list[list[Tensor] | None] = [
            [entry[state.name] for entry in entries] if state.name in names else None for state in self.algorithm.states
        ]
        states += [None] * (3 - len(states))
        device = self._step_device(params[0])
        if self.algorithm.stateful_step:
            steps = torch.stack([entry["step"].detach().to(device, torch.float32) for entry in entries])
            for entry, view in zip(entries, steps.unbind(0), strict=True):
                entry["step"] = view
        else:
            steps = torch.zeros(len(params), device=device)
        return _Plan(
            flags=flags,
            bucket=Bucket(params=params, grads=grads, states=states, row_of=[]),
            groups=np.array(groups),
            entries=entries,
            names=names,
            steps=steps,
            device_steps=steps if self.recipe.device_step else torch.zeros(len(params), device=params[0].device),
            first=np.array(first, bool),
            any_first=any(first),
        )

    def _checked_grad(self, p: Tensor) -> Tensor:
        grad = p.grad
        assert grad is not None
        if grad.is_sparse:
            raise RuntimeError(f"{self.algorithm.title} does not support sparse gradients; use torch.optim.SparseAdam")
        if grad.dtype not in TRITON_DTYPE:
            raise TypeError(f"grad of {grad.dtype}: these kernels take float32, bfloat16 and float16 gradients")
        if not torch.ops.aten.is_non_overlapping_and_dense(p):
            raise ValueError(
                f"params: a parameter of shape {tuple(p.shape)} and strides {p.stride()} has gaps or overlaps; "
                "give a dense one, such as its .contiguous() copy"
            )
        if grad.stride() != p.stride():
            p.grad = torch.empty_like(p, dtype=grad.dtype).copy_(grad)
            return p.grad
        return grad


def _choose_recipe(
    algorithm: Algorithm, recipe: str | None, foreach: bool | None, fused: bool | None, capturable: bool
) -> str:
    """The recipe that torch's own implementation switches stand for."""
    if recipe is not None and (foreach is not None or fused is not None):
        raise ValueError("recipe: foreach and fused choose a recipe too; give one of the three")
    if fused and foreach:
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
    if recipe is not None:
        name = algorithm.recipe(recipe).name
    else:
        name = "fused" if fused else "for-loop" if foreach is False else algorithm.default_recipe
    if capturable and f"{name}-capturable" in algorithm.recipes:
        name = f"{name}-capturable"
    if name not in algorithm.recipes:
        raise ValueError(
            f"fused={fused}: torch has no fused {algorithm.title}; leave it out, a step is one launch anyway"
        )
    return name


_SWITCHES = ("foreach", "maximize", "capturable", "differentiable", "fused")


def make_optimizer(algorithm: Algorithm) -> type[StepOptimizer]:
    """The drop-in class of an algorithm."""
    fields = {f.name: f.default for f in dataclasses.fields(algorithm.hyperparameters)}
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter("self", kind), inspect.Parameter("params", kind)]
    parameters += [inspect.Parameter(name, kind, default=fields[name]) for name in algorithm.positional]
    keyword_only = {name: default for name, default in fields.items() if name not in algorithm.positional}
    keyword_only |= {"foreach": None, "capturable": False, "differentiable": False, "fused": None}
    keyword_only |= {"recipe": None, "backend": "auto"}
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in keyword_only.items()
    ]
    signature = inspect.Signature(parameters)

    def __init__(self: StepOptimizer, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        values = dict(bound.arguments)
        del values["self"]
        params: Iterable[Any] = values.pop("params")
        recipe, backend = values.pop("recipe"), values.pop("backend")
        if values["differentiable"]:
            raise ValueError("differentiable=True: these kernels record no graph; use torch.optim for that")
        lr = values.get("lr")
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        name = _choose_recipe(algorithm, recipe, values["foreach"], values["fused"], values["capturable"])
        StepOptimizer.__init__(self, params, values, recipe=name, backend=backend)

    __init__.__signature__ = signature  # type: ignore[attr-defined]
    __init__.__doc__ = f"As torch.optim.{algorithm.title}, plus ``recipe`` and ``backend``."
    recipes = "".join(f"\n    - ``{r.name}``: bit-identical to {r.equals}" for r in algorithm.recipes.values())
    doc = f"""Drop-in for torch.optim.{algorithm.title}: one launch a step.

    Recipes:{recipes}

    Parameters, gradients and states are float32, bfloat16 or float16 and are updated in place.
    """
    return type(
        algorithm.title,
        (StepOptimizer,),
        {"__init__": __init__, "__doc__": doc, "algorithm": algorithm, "__module__": __name__},
    )
