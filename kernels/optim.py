"""Drop-in torch.optim.Optimizer classes, built from the registry.

``kernels.Adam(...)`` takes what ``torch.optim.Adam(...)`` takes, plus ``recipe=`` (whose rounding) and ``backend=`` (what
executes it). A step is one launch per (device, dtypes, options), whatever the number of tensors and groups.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from .algorithm import Algorithm, Recipe
from .launch import TRITON_DTYPE, Bucket, Tables, _upload, resolve_backend, step_bucket
from .powers import power_table


@dataclass(kw_only=True)
class _Plan:
    """A bucket and what is kept for it between steps.

    ``steps`` holds the step number of every tensor; each ``state["step"]`` is a view of one of its elements, so that all
    of them advance in one operation. ``device_steps`` is the same tensor where the rule reads it, else zeros in its place.
    """

    flags: int
    bucket: Bucket
    groups: list[int]
    entries: list[dict[str, Any]]
    names: tuple[str, ...]
    steps: Tensor
    device_steps: Tensor
    first: np.ndarray
    tables: Tables = field(default_factory=Tables)
    rows_key: Any = None
    rows: Tensor | None = None


class StepOptimizer(Optimizer):
    """Base of the drop-ins; subclasses are made by `make_optimizer`."""

    algorithm: ClassVar[Algorithm]

    def __init__(self, params: Any, defaults: dict[str, Any], *, recipe: str, backend: str) -> None:
        self._recipe_name = recipe
        self._backend = backend
        self._plans: list[_Plan] | None = None
        super().__init__(params, defaults)
        self._check_params()
        # In-kernel unscaling equals torch's fused kernels; the other recipes leave it to GradScaler.unscale_, as torch does.
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
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in kept}, "_plans": None}

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
        for plan in self._current_plans():
            self._step_plan(plan, grad_scale, found_inf)
        return loss

    # -- one bucket --------------------------------------------------------------------------------------------------

    def _skips_on_device(self) -> bool:
        """Whether a found_inf can be left to the kernel: the step then lives on the device, and no first step is special."""
        return self.recipe.device_step or (
            not self.algorithm.stateful_step and not any(plan.first.any() for plan in self._current_plans())
        )

    def _step_plan(self, plan: _Plan, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        recipe, device = self.recipe, plan.bucket.device
        powers = power_table(device)
        plan.steps.add_(1)
        steps = plan.steps
        hypers = [self._hyper(group) for group in self.param_groups]
        if recipe.device_step:
            numbers = np.zeros(len(plan.groups))
        else:
            numbers = steps.numpy(force=True) if self.algorithm.stateful_step else np.zeros(len(plan.groups))
        keys: dict[tuple[int, float, bool], int] = {}
        row_of = [
            keys.setdefault(key, len(keys))
            for key in zip(plan.groups, numbers.tolist(), plan.first.tolist(), strict=True)
        ]
        rows = [recipe.row(hypers[group], number, first, powers) for group, number, first in keys]
        if rows != plan.rows_key or plan.rows is None:
            plan.rows_key, plan.rows = rows, _upload(np.array(rows, np.float64), device)
        plan.bucket.row_of = row_of
        step_bucket(
            recipe,
            plan.flags,
            plan.bucket,
            rows=plan.rows,
            steps=plan.device_steps,
            powers=powers.values,
            grad_scale=grad_scale,
            found_inf=found_inf,
            backend=self._backend,
            tables=plan.tables,
        )
        if found_inf is not None:
            steps.sub_(found_inf.to(steps.device))
        plan.first[:] = False

    # -- from groups to buckets --------------------------------------------------------------------------------------

    def _hyper(self, group: dict[str, Any]) -> Any:
        values = {f.name: group[f.name] for f in dataclasses.fields(self.algorithm.hyperparameters)}
        for name, value in values.items():
            if isinstance(value, Tensor):
                values[name] = value.item()
        if "betas" in values:
            values["betas"] = tuple(float(beta) for beta in values["betas"])
        return self.algorithm.hyperparameters(**values)

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
        return p.device if self.recipe.device_step else torch.device("cpu")

    def _current_plans(self) -> list[_Plan]:
        """The buckets of the parameters that have gradients; rebuilt when anything but addresses changed."""
        if self._plans is None or not self._plans_hold(self._plans):
            self._plans = self._make_plans()
        return self._plans

    def _plans_hold(self, plans: list[_Plan]) -> bool:
        """Whether the same parameters have gradients of the same layout and the same state tensors; takes over new addresses."""
        planned = 0
        for plan in plans:
            planned += len(plan.bucket.params)
            grads = [p.grad for p in plan.bucket.params]
            for p, new, old in zip(plan.bucket.params, grads, plan.bucket.grads, strict=True):
                if new is not old and (
                    new is None or new.is_sparse or new.dtype != old.dtype or new.stride() != p.stride()
                ):
                    return False
            for k, name in enumerate(plan.names):
                tensors = plan.bucket.states[self._slot(name)]
                assert tensors is not None
                if any(entry.get(name) is not t for entry, t in zip(plan.entries, tensors, strict=True)):
                    return False
                del k
            if any(self.state.get(p) is not entry for p, entry in zip(plan.bucket.params, plan.entries, strict=True)):
                return False
            flags = {group: self.algorithm.flags(self._hyper(self.param_groups[group])) for group in set(plan.groups)}
            if any(value != plan.flags for value in flags.values()):
                return False
            plan.bucket.grads = grads
        return planned == sum(p.grad is not None for group in self.param_groups for p in group["params"])

    def _slot(self, name: str) -> int:
        return [state.name for state in self.algorithm.states].index(name)

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
            [entry[state.name] for entry in entries] if state.name in names else None
            for state in self.algorithm.states
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
            groups=groups,
            entries=entries,
            names=names,
            steps=steps,
            device_steps=steps if self.recipe.device_step else torch.zeros(len(params), device=params[0].device),
            first=np.array(first, bool),
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
        raise ValueError(f"fused={fused}: torch has no fused {algorithm.title}; leave it out, a step is one launch anyway")
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
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default) for name, default in keyword_only.items()
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
        algorithm.title, (StepOptimizer,), {"__init__": __init__, "__doc__": doc, "algorithm": algorithm, "__module__": __name__}
    )
