"""One parameter group under a probe: what is copied before a step, and the elements afterwards."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernels import Algorithm

from ..diagnose.elements import Elements, Layers, format_of, layer_of, second_moment, steps_seen
from ..diagnose.recognise import MASTER, hyper_of, needed_states, sums_exactly
from ..diagnose.sampling import copied, counts, doubled, local, places, size_of, take


@dataclass(frozen=True, kw_only=True, eq=False)
class Watched:
    """A parameter that is looked at.

    Attributes:
        param: the parameter.
        name: its name in the model, or its place.
        where: which of its elements are looked at, None for all.
        count: how many.
    """

    param: Tensor
    name: str
    where: Tensor | None
    count: int


@dataclass(frozen=True, kw_only=True, eq=False)
class _Before:
    """What a step is about to change.

    Attributes:
        watched: the parameters it is kept of, one after another.
        had_v: whether one of them had a second moment.
        had_grads: whether gradients are there, behind parameters and second moments; else the step is to make them.
        values: what was copied: of float32 on the CPU in float64, else as it was, on its device.
    """

    watched: list[Watched]
    had_v: bool
    had_grads: bool
    values: Tensor


class Group:
    """What a probe keeps of one parameter group.

    Args:
        algorithm: the optimizer's.
        params: the group's.
        names: of the parameters, by identity.
        number: the group's place.
        limit: how many elements are looked at.
    """

    def __init__(
        self, algorithm: Algorithm, params: list[Tensor], names: Mapping[int, str], number: int, limit: int
    ) -> None:
        self._algorithm = algorithm
        self._v = second_moment(algorithm)
        self._needed = needed_states(algorithm)
        self._params = [(p, _kind(p)) for p in params]
        self.left_out: dict[str, int] = {}
        known = [p for p in params if format_of(p) is not None and p.numel()]
        sizes = [size_of(p) for p in known]
        self._watched = [
            Watched(
                param=p,
                name=names.get(id(p), f"group{number}.{place}"),
                where=_on(places(size, count), p),
                count=count,
            )
            for place, (p, size, count) in enumerate(zip(known, sizes, counts(sizes, limit), strict=True))
        ]
        self._unknown = sum(1 for p in params if format_of(p) is None)
        self._before: _Before | None = None
        self._layers: tuple[Any, Layers] | None = None
        self._known: tuple[list[Any], Any, Sequence[str]] | None = None

    def is_of(self, params: list[Tensor]) -> bool:
        """Whether these are the parameters as they were: none came, went, moved or changed its size or dtype."""
        return len(params) == len(self._params) and all(
            p is known and _kind(p) == kind for p, (known, kind) in zip(params, self._params, strict=True)
        )

    def has(self, dtype: torch.dtype) -> bool:
        """Whether a parameter is of that dtype."""
        return any(p.dtype == dtype for p, _ in self._params)

    def before(self, state: Mapping[Tensor, Any], *, with_grads: bool) -> None:
        """Copies parameters and second moments, and gradients where they are there already."""
        watched = [it for it in self._watched if not with_grads or _dense_grad(it.param) is not None]
        self._before = None
        if not watched:
            return
        entries = [state.get(it.param) or {} for it in watched]
        parts = [take(entry.get(MASTER, it.param), it.where) for it, entry in zip(watched, entries, strict=True)]
        moments = [entry.get(self._v) if self._v is not None else None for entry in entries]
        had_v = any(isinstance(v, Tensor) for v in moments)
        if had_v:
            parts += [
                take(v, it.where) if isinstance(v, Tensor) else torch.zeros_like(part)
                for it, v, part in zip(watched, moments, parts, strict=True)
            ]
        if with_grads:
            parts += [take(_there(it.param.grad), it.where) for it in watched]
        self._before = _Before(watched=watched, had_v=had_v, had_grads=with_grads, values=_kept(parts))

    def after(
        self,
        state: Mapping[Tensor, Any],
        group: Mapping[str, Any],
        *,
        divided_by: float,
        backward_scale: float,
        exact_sums: bool,
    ) -> Elements | None:
        """The group's elements once the step has been taken; None where nothing dense was stepped.

        Args:
            state: the optimizer's.
            group: its hyperparameters.
            divided_by: what the step divided the copied gradients by.
            backward_scale: what the loss was multiplied by.
            exact_sums: whether the optimizer keeps small updates.

        Raises:
            KeyError: a state of the algorithm is not there.
        """
        before, self._before = self._before, None
        watched = [] if before is None else before.watched
        stepped = watched if before is None or before.had_grads else [it for it in watched if _has_grad(it)]
        self._count_left_out(stepped)
        if before is None or not stepped:
            return None
        hyper, names = self._hyper_of(group)
        entries = [state.get(it.param) or {} for it in stepped]
        for it, entry in zip(stepped, entries, strict=True):
            self._check(it, entry, names)
        kinds = dict.fromkeys(name for entry in entries for name in entry)
        after = [[take(entry[name], it.where) for it, entry in zip(stepped, entries, strict=True)] for name in names]
        if not before.had_grads:
            after.append([take(_there(it.param.grad), it.where) for it in stepped])
        steps = [entry.get("step") for entry in entries]
        kept, found, counters = _fetched(before.values, [part for row in after for part in row], steps)
        rows = list(found.view(-1, sum(it.count for it in stepped)).unbind()) if after else []
        kept = kept.view(-1, sum(it.count for it in watched))
        if len(stepped) != len(watched):
            kept = torch.cat([kept[:, place] for place in _places_of(watched, stepped)], 1)
        grads = rows.pop() if not before.had_grads else kept[-1]
        return Elements(
            algorithm=self._algorithm,
            hyper=hyper,
            step=steps_seen(counters, [it.count for it in stepped]),
            layers=self._layers_of(stepped, entries, group),
            states=dict(zip(names, rows, strict=True)),
            v_before=kept[1] if before.had_v else None,
            params=kept[0],
            grads=grads / divided_by if divided_by != 1.0 else grads,
            backward_scale=backward_scale,
            exact_sums=exact_sums
            or _exact_by_name(tuple(kinds))
            or _exact_by_name(tuple(name for name, value in group.items() if value is True)),
        )

    def _hyper_of(self, group: Mapping[str, Any]) -> tuple[Any, Sequence[str]]:
        """The group's record and the names of its states: those of the last look while the same numbers stand there."""
        values = [group.get(name) for name in self._algorithm.hyperparameter_names]
        if self._known is None or not all(map(operator.is_, values, self._known[0])):
            hyper = hyper_of(self._algorithm, group)
            # A tensor or a list may change where it stands.
            kept = values if all(map(_is_constant, values)) else [object()]
            self._known = (kept, hyper, self._algorithm.state_names(hyper))
        return self._known[1], self._known[2]

    def _count_left_out(self, stepped: Sequence[Watched]) -> None:
        self.left_out = {"unknown dtype": self._unknown} if self._unknown else {}
        if len(stepped) == len(self._watched):
            return
        there = {id(it) for it in stepped}
        for it in self._watched:
            if id(it) not in there:
                reason = "no gradient" if it.param.grad is None else "sparse gradient"
                self.left_out[reason] = self.left_out.get(reason, 0) + 1

    def _check(self, it: Watched, entry: Mapping[str, Any], names: Sequence[str]) -> None:
        missing = [name for name in names if entry.get(name) is None]
        missing = missing or [name for name in self._needed if entry.get(name) is None]
        if missing:
            kept = ", ".join(map(str, entry)) or "nothing"
            raise KeyError(
                f"the state of {it.name} has {kept}, and no {' and no '.join(missing)}: it is not "
                f"{self._algorithm.title}'s"
            )

    def _layers_of(
        self, stepped: Sequence[Watched], entries: Sequence[Mapping[str, Any]], group: Mapping[str, Any]
    ) -> Layers:
        """The layers, which are those of the last look as long as no dtype changes."""
        fused = bool(group.get("fused"))
        key: list[Any] = [fused]
        tensors = []
        for it, entry in zip(stepped, entries, strict=True):
            param, v = entry.get(MASTER, it.param), entry.get(self._v) if self._v is not None else None
            tensors.append((param, v))
            key += [it, param.dtype, None if v is None else v.dtype]
        if self._layers is None or self._layers[0] != key:
            made = Layers(
                layer_of(it.name, it.count, size_of(it.param), param, v, fused=fused)
                for it, (param, v) in zip(stepped, tensors, strict=True)
            )
            self._layers = (key, made)
        return self._layers[1]


def _is_constant(value: Any) -> bool:
    """Whether it stays what it is as long as it is the same object."""
    return isinstance(value, int | float | None) or (isinstance(value, tuple) and all(map(_is_constant, value)))


@functools.lru_cache(maxsize=64)
def _exact_by_name(names: tuple[Any, ...]) -> bool:
    return sums_exactly(map(str, names))


def _kept(parts: Sequence[Tensor]) -> Tensor:
    """Copies of the parts, one after another."""
    found = doubled(parts)
    return copied(parts) if found is None else found


def _fetched(before: Tensor, after: Sequence[Tensor], steps: Sequence[Any]) -> tuple[Tensor, Tensor, list[Any]]:
    """Float64 on the CPU of what was copied and of what is there now, and the counters: a device is waited for once."""
    on_device = [step for step in steps if isinstance(step, Tensor) and step.device.type != "cpu"]
    if len(on_device) < len(steps):
        now = doubled(after) if after and before.dtype == torch.float64 else None
        if now is not None:
            return before, now, list(steps)
        whole = _doubles(copied([before, *after]).cpu())
        return whole[: before.numel()], whole[before.numel() :], list(steps)
    whole = _doubles(copied([before, *after, *(step.detach().reshape(1) for step in on_device)]).cpu())
    return whole[: before.numel()], whole[before.numel() : -len(steps)], whole[-len(steps) :].tolist()


def _doubles(values: Tensor) -> Tensor:
    """In float64; of float32 by numpy, which wakes no threads."""
    return torch.from_numpy(values.numpy().astype("float64")) if values.dtype == torch.float32 else values.double()


def _kind(param: Tensor) -> tuple[Any, ...]:
    """What the choice of elements depends on."""
    return param.device, param.dtype, size_of(param)


def _places_of(watched: Sequence[Watched], stepped: Sequence[Watched]) -> list[slice]:
    """Where the elements of some lie among those of all."""
    found, start, some = [], 0, {id(it) for it in stepped}
    for it in watched:
        if id(it) in some:
            found.append(slice(start, start + it.count))
        start += it.count
    return found


def _dense_grad(param: Tensor) -> Tensor | None:
    grad = param.grad
    return None if grad is None or grad.layout != torch.strided else grad


def _has_grad(it: Watched) -> bool:
    return _dense_grad(it.param) is not None


def _there(grad: Tensor | None) -> Tensor:
    assert grad is not None
    return grad


def _on(where: Tensor | None, param: Tensor) -> Tensor | None:
    return None if where is None else where.to(local(param).device)
