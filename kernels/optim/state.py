"""What an optimizer keeps for a parameter: made, checked, fitted to the kernels, taken back when a step is refused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..launch.buckets import Member
from ..launch.checks import IncompleteState, check_state, one_number, same_order
from ..launch.dtypes import line_dtypes
from ..rounding.flags import NESTEROV
from .counters import Chunk, is_counter
from .shards import is_dtensor, shard_of, state_shard

if TYPE_CHECKING:
    from .optimizer import StepOptimizer

MASTER = "master_param"
"""Name of the float32 master weights among a parameter's state."""
_STEP = "step"


class States:
    """The states of one optimizer's parameters, while its plans are made."""

    def __init__(self, optimizer: StepOptimizer) -> None:
        self._optimizer = optimizer
        self._algorithm = optimizer.algorithm
        self._new: list[tuple[Tensor, str]] = []
        self._uncounted: list[Tensor] = []

    # -- before anything changes -------------------------------------------------------------------------------------

    def check(self, p: Tensor, hyper: Any) -> None:
        """Refuse a state that lacks what these options need, before anything is created.

        A parameter without any state is new. States that only some options keep may be missing: an option that is
        switched on in mid-run starts its state anew.

        Raises:
            IncompleteState: by name, for what is missing.
        """
        entry = self._optimizer.state.get(p)
        if not entry:
            return
        always = [state.name for state in self._algorithm.states if state.always]
        needed = [*([_STEP] if self._algorithm.stateful_step else []), *always]
        missing = [name for name in needed if entry.get(name) is None]
        if missing and always and not self._only_ours(entry):
            raise IncompleteState(
                f"state of a parameter of shape {tuple(p.shape)}: no {' and no '.join(map(repr, missing))} beside "
                f"{', '.join(map(repr, entry))}; {self._algorithm.title} needs {', '.join(map(repr, needed))}: load a "
                "checkpoint of this algorithm, complete the state, or clear it"
            )

    def _only_ours(self, entry: dict[str, Any]) -> bool:
        """Whether an entry holds nothing but masters, which are made anew when they are deleted."""
        return not set(entry) - {MASTER}

    # -- creation ----------------------------------------------------------------------------------------------------

    def prepare(self, p: Tensor, hyper: Any) -> bool:
        """Create what is missing of a parameter's state; True before its first update."""
        optimizer, names = self._optimizer, self._algorithm.state_names(hyper)
        if not names and not self._algorithm.stateful_step and self.target(p) is p:
            # As in torch: SGD without momentum keeps no entry.
            return False
        if p not in optimizer.state:
            self._new.append((p, ""))
        entry = optimizer.state[p]
        first = any(entry.get(name) is None for name in names)
        if self._algorithm.stateful_step:
            self._count(p, entry)
        target = self.target(p)
        if target is not p and entry.get(MASTER) is None:
            entry[MASTER] = p.detach().to(torch.float32, memory_format=torch.preserve_format)
            self._new.append((p, MASTER))
        for name in names if target is p else (MASTER, *names):
            if entry.get(name) is None:
                # The constructor's hyperparameters decide initial states, in torch too.
                fill = self._algorithm.fill(optimizer.hyper_of(optimizer.defaults))
                dtype = self._dtype(name, p, target, hyper)
                entry[name] = torch.full_like(target, fill, dtype=dtype, memory_format=torch.preserve_format)
                self._new.append((p, name))
            self._fit(p, name, entry)
        return first

    def _dtype(self, name: str, p: Tensor, target: Tensor, hyper: Any) -> torch.dtype:
        """The dtype of a new state: by the algorithm's rule, the parameter's or the gradient's (`State.like`)."""
        like = next(state.like for state in self._algorithm.states if state.name == name)
        if like == "param" or target is not p or p.grad is None:
            return target.dtype
        dtypes = (p.dtype, p.grad.dtype, p.grad.dtype, None)
        return line_dtypes(self._optimizer.recipe, self._algorithm.flags(hyper) & ~NESTEROV.value, dtypes)[0]

    def _count(self, p: Tensor, entry: dict[str, Any]) -> None:
        device, step = self.step_device(p), entry.get(_STEP)
        if step is None:
            self._uncounted.append(p)
            self._new.append((p, _STEP))
            # Its place in the entry is first, as in torch; the counter follows when all new ones are known.
            entry[_STEP] = None
        elif not is_counter(step, device):
            value = float(one_number(step, f"state {_STEP!r}"))
            entry[_STEP] = torch.full((), value, dtype=torch.float32, device=device)

    def make_counters(self, chunks: list[Chunk]) -> None:
        """One chunk for all counters that are missing."""
        by_device: dict[torch.device, list[Tensor]] = {}
        for p in self._uncounted:
            by_device.setdefault(self.step_device(p), []).append(p)
        for device, params in by_device.items():
            chunk = Chunk(len(params), self._step_dtype(), device)
            for p, counter in zip(params, chunk.counters(), strict=True):
                self._optimizer.state[p][_STEP] = counter
            chunks[:] = [*(one for one in chunks if one.in_use), chunk]
        self._uncounted.clear()

    def _step_dtype(self) -> torch.dtype:
        """Torch counts in float64 where that is the default dtype, unless the device counts."""
        on_device = self._optimizer.recipe.device_step or self._optimizer.defaults.get("capturable", False)
        double = torch.get_default_dtype() == torch.float64 and not on_device
        return torch.float64 if double else torch.float32

    def step_device(self, p: Tensor) -> torch.device:
        """Where a parameter's steps are counted."""
        on_device = self._optimizer.recipe.device_step or self._optimizer.defaults.get("capturable", False)
        return p.device if on_device else torch.device("cpu")

    def target(self, p: Tensor) -> Tensor:
        """What is stepped for a parameter: itself, or its master (a stand-in for the master until there is one)."""
        if not self._optimizer.master_weights or p.dtype == torch.float32:
            return p
        master = self._optimizer.state[p].get(MASTER)
        return master if isinstance(master, Tensor) else p.detach().to(torch.float32)

    def _fit(self, p: Tensor, name: str, entry: dict[str, Any]) -> None:
        """Check a state, and bring it into the element order of what is stepped (a checkpoint may have another)."""
        masters = self._optimizer.master_weights and p.dtype != torch.float32
        target = entry.get(MASTER, p) if masters else p
        check_state(shard_of(p), name, state_shard(entry[name], p, name))
        if target is not p and entry[name].dtype != torch.float32:
            entry[name] = entry[name].float()
        like = p if entry[name] is target else target
        # A shard in another order is stepped through a stand-in.
        if not is_dtensor(p) and not same_order(entry[name], like):
            entry[name] = torch.empty_like(like, dtype=entry[name].dtype).copy_(entry[name])

    def member(self, p: Tensor, hyper: Any) -> Member:
        """The tensors of one parameter as a launch takes them."""
        entry = self._optimizer.state.get(p, {})
        names = self._algorithm.state_names(hyper)
        kept = [entry[state.name] if state.name in names else None for state in self._algorithm.states]
        states = [None if state is None else shard_of(state) for state in kept]
        target = self.target(p)
        (grad,) = self._optimizer.local_grads([p])
        return Member(
            param=shard_of(target),
            grad=grad,
            states=(*states, *[None] * (3 - len(states))),
            copy=None if target is p else shard_of(p),
            flags=self._algorithm.flags(hyper),
        )

    # -- refused steps -----------------------------------------------------------------------------------------------

    def take_back(self, stepped: Iterable[Tensor]) -> bool:
        """Remove what was created for a step that is refused: a first update stays the first.

        Args:
            stepped: parameters that were updated all the same.

        Returns:
            Whether anything had been created.
        """
        done = frozenset(map(id, stepped))
        state = self._optimizer.state
        for p, name in self._new:
            if id(p) not in done and p in state:
                state[p].pop(name, None)
                if not state[p]:
                    del state[p]
        return bool(self._new)
