"""Drop-in torch.optim.Optimizer classes, built from the registry.

``kernels.Adam(...)`` takes what ``torch.optim.Adam(...)`` takes, plus ``recipe=`` (whose rounding), ``backend=`` (what
executes it) and ``master_weights=``. A step is one launch per (device, dtypes, options), whatever the number of tensors
and groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..algorithm import Algorithm, Recipe
from ..launch.checks import one_number
from .constructors import plain, switches
from .counters import Chunk
from .graphs import Graphs
from .hooks import hooked
from .known import Known
from .planning import check_group, make_plans
from .plans import Plan
from .shards import grad_shard, is_dtensor
from .state import States

_PLAIN = frozenset({float, int, bool})


class StepOptimizer(Optimizer):
    """Base of the drop-ins; subclasses are made by `kernels.make_optimizer`."""

    algorithm: ClassVar[Algorithm]
    values_of: ClassVar[Any]
    """A group's hyperparameters as they stand, in the record's order."""
    _graphs: Graphs | None = None
    _fixed: ClassVar[tuple[str, ...]] = ()
    """Hyperparameters that this class's constructor does not offer."""

    def __init__(
        self, params: Any, defaults: dict[str, Any], *, recipe: str, backend: str, master_weights: bool = False
    ) -> None:
        self._recipe_name = recipe
        self._backend = backend
        self._master_weights = master_weights
        self._known: Known | None = None
        self._hypers: dict[str, Any] = {}
        self._loading: dict[str, Any] | None = None
        self._chunks: list[Chunk] = []
        self._local_grads: dict[int, Tensor] | None = None
        super().__init__(params, defaults)
        # In-kernel unscaling equals torch's fused kernels; others leave it to GradScaler.unscale_, as torch does.
        self._step_supports_amp_scaling = recipe in ("fused", "cpu-fused")

    # -- what a user sees --------------------------------------------------------------------------------------------

    @property
    def recipe(self) -> Recipe:
        """Whose rounding this optimizer reproduces."""
        return self.algorithm.recipe(self._recipe_name)

    @property
    def backend(self) -> str:
        """The backend asked for (``auto`` is resolved per device)."""
        return self._backend

    @property
    def master_weights(self) -> bool:
        """Whether bfloat16 and float16 parameters are copies of float32 masters in the state."""
        return self._master_weights

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as torch does.

        Raises:
            TypeError: for parameters of another dtype than float32, bfloat16 and float16.
            ValueError: for hyperparameters out of range, or a group that asks for another recipe than the optimizer's.
        """
        super().add_param_group(param_group)
        self._known = None
        group = self.param_groups[-1]
        try:
            check_group(self, group)
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise
        if self.algorithm.eager_state:
            states = States(self)
            for p in group["params"]:
                states.prepare(p, self.hyper_of(group))
            states.make_counters(self._chunks)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of this class or of torch's, as torch does.

        Recipe and backend stay this optimizer's own. With ``master_weights`` masters and moments keep the checkpoint's
        float32 values (torch casts states to the parameter's dtype).
        """

        def remember(optimizer: Optimizer, loaded: dict[str, Any]) -> None:
            self._loading = loaded

        handle = self.register_load_state_dict_pre_hook(remember)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
            self._loading = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._known = None
        self._chunks = []
        own = switches(self.recipe, self.defaults)
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)
            # They say what runs here, whatever wrote the checkpoint; and AdamW's decay stays decoupled, as in torch.
            group.update(own)
            group.update({name: self.defaults[name] for name in self._fixed})
        if self.__dict__.get("_loading") is not None and self._master_weights:
            self._restore_precision(self._loading)
        for entry in self.state.values():
            if isinstance(entry, dict) and "step" in entry and not torch.is_tensor(entry["step"]):
                entry["step"] = torch.tensor(float(entry["step"]), dtype=torch.float32, device="cpu")

    def _restore_precision(self, loaded: Any) -> None:
        """Take float32 states from the loaded dict again: torch has cast them to the parameters' dtype."""
        numbers = chain.from_iterable(group["params"] for group in loaded["param_groups"])
        for number, p in zip(numbers, chain.from_iterable(g["params"] for g in self.param_groups), strict=True):
            for name, value in loaded["state"].get(number, {}).items():
                if isinstance(value, Tensor) and name != "step":
                    self.state[p][name] = value.to(p.device, copy=True)

    def __getstate__(self) -> dict[str, Any]:
        # torch keeps defaults, state and param_groups; the plans are rebuilt from them.
        kept = ("_recipe_name", "_backend", "_master_weights", "_step_supports_amp_scaling")
        fresh: dict[str, Any] = {"_known": None, "_hypers": {}, "_loading": None, "_local_grads": None}
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in kept}, **fresh}

    @hooked
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One optimization step, in place.

        Args:
            closure: re-evaluates the model and returns the loss.

        Returns:
            The closure's value, or None.

        Raises:
            RuntimeError: for a sparse gradient.
            TypeError: for parameters, gradients or states that are not dense float32, bfloat16 or float16 tensors.
            ValueError: for parameters that share memory, and shapes or devices that do not fit.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        grad_scale = getattr(self, "grad_scale", None)
        found_inf = getattr(self, "found_inf", None)
        if grad_scale is not None:
            grad_scale = one_number(grad_scale, "grad_scale")
        if found_inf is not None:
            found_inf = one_number(found_inf, "found_inf")
        self._local_grads = None
        # A look that breaks off has taken over some of what moved and sent none of it: it is not to be gone on with.
        known, self._known = self._known, None
        if known is not None and known.holds(self):
            self._known = known
        else:
            known = None
        if found_inf is not None and not self._skips_on_device(known):
            if float(found_inf) != 0.0:
                self._release_grads()
                return loss
            found_inf = None
        if known is not None and known.quiet and grad_scale is None and found_inf is None:
            self._local_grads = None
            if self._graphs is not None:
                self._graphs.step(known)
                return loss
            for plan in known.plans:
                plan.step(known.hypers, None, None)
            return loss
        with torch.no_grad():
            self._careful_step(known, grad_scale, found_inf)
        return loss

    def _release_grads(self) -> None:
        """Hold on to no gradient of a step that is skipped: its memory is the next backward pass's."""
        self._local_grads = None
        for plan in self._known.plans if self._known is not None else ():
            plan.assembly.release()

    def _careful_step(self, known: Known | None, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        """A step with everything that can happen around it: new plans and states, stand-ins, scales, refusals."""
        states = States(self)
        plans: list[Plan] = []
        try:
            if known is None:
                self._known = known = make_plans(self, states, self._chunks)
            self._local_grads = None
            plans = known.plans
            for plan in plans:
                plan.taken = False
                plan.assembly.check(scaled=grad_scale is not None)
            if found_inf is not None and len(plans) > 1:
                # GradScaler adds up the flags of all devices; the kernels ask for 1.
                found_inf = (found_inf != 0).float()
            for plan in plans:
                plan.step(known.hypers, grad_scale, found_inf)
        except BaseException:
            # An interrupt too: it comes while a first kernel compiles.
            if states.take_back(chain.from_iterable(plan.owners for plan in plans if plan.taken)):
                self._known = None
            raise

    def take_graphs(self, graphs: Graphs | None) -> None:
        """Step with these graphs from now on; None for none. See `kernels.graphed`."""
        self._graphs = graphs

    def forget(self) -> None:
        """Let go of the last step's parameters and states, so that those that were moved elsewhere are free at once.

        They are held until the next step otherwise, which looks at what changed. After this it looks at everything.
        """
        self._known = None
        if self._graphs is not None:
            self._graphs.forget()

    def refresh(self) -> None:
        """Send changed hyperparameters to the device, for CUDA graphs captured from `step`: call it before a replay."""
        hypers = [self.hyper_of(group) for group in self.param_groups]
        for plan in self._known.plans if self._known is not None else ():
            # Those that count on the host send theirs with each step, and are in no graph.
            if plan.is_capturable:
                plan.refresh(hypers)

    def share_memory(self) -> None:
        """Move every state tensor to shared memory (torch.optim.Adagrad has this method)."""
        for entry in self.state.values():
            for value in entry.values() if isinstance(entry, dict) else ():
                if isinstance(value, Tensor):
                    value.share_memory_()  # type: ignore[no-untyped-call]

    def _skips_on_device(self, known: Known | None) -> bool:
        """Whether a found_inf can be left to the kernel: the step lives on the device, and no first step is special."""
        if self.recipe.device_step:
            return True
        return known is not None and not known.first_steps and not self.algorithm.stateful_step

    # -- what plans are made of ----------------------------------------------------------------------------------------

    def hyper_of(self, group: dict[str, Any]) -> Any:
        """The record of a group's hyperparameters."""
        values = self.values_of(group)
        if not _PLAIN.issuperset(map(type, values)):
            values = tuple(map(plain, values))
        # 0.0 equals -0.0, and steps zeros to other bits.
        key = repr(values)
        if key not in self._hypers:
            # Schedules bring ever new values: keep few.
            if len(self._hypers) > 256:
                self._hypers.clear()
            named = dict(zip(self.algorithm.hyperparameter_names, values, strict=True))
            # As in torch, ranges are checked where an optimizer is made: a scheduler may step past zero.
            record: Any = object.__new__(self.algorithm.hyperparameters)
            vars(record).update(named)
            self._hypers[key] = record
        return self._hypers[key]

    def local_grads(self, params: Sequence[Tensor]) -> list[Any]:
        """This step's gradients of these parameters as they are stepped: those of DTensors are this process's shards.

        All of them are formed together, once a step, since other processes may have to take part.
        """
        if self._local_grads is None:
            everything = chain.from_iterable(group["params"] for group in self.param_groups)
            sharded = [p for p in everything if p.grad is not None and is_dtensor(p)]
            self._local_grads = {id(p): grad_shard(p.grad, p) for p in sharded}
        return [self._local_grads.get(id(p), p.grad) for p in params]
