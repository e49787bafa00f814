"""One parameter group under a probe: what is copied before a step, and the elements afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernels import Algorithm

from ..diagnose.elements import Elements, Layer, format_of, layer_of, second_moment, steps_seen
from ..diagnose.recognise import MASTER, hyper_of, missing_states, sums_exactly
from ..diagnose.sampling import counts, joined, local, places, take


@dataclass(kw_only=True)
class Watched:
    """A parameter that is looked at.

    Attributes:
        param: the parameter.
        name: its name in the model, or its place.
        where: which of its elements are looked at, None for all.
        count: how many.
        p: those elements of what is stepped, before the step.
        v: those of its second moment before the step, None where there was no state.
        g: those of its gradient.
    """

    param: Tensor
    name: str
    where: Tensor | None
    count: int
    p: Tensor | None = None
    v: Tensor | None = None
    g: Tensor | None = None


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
        self._params = [(p, p.device, local(p).numel()) for p in params]
        self.left_out: dict[str, int] = {}
        known = [p for p in params if format_of(p) is not None and p.numel()]
        sizes = [local(p).numel() for p in known]
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

    def is_of(self, params: list[Tensor]) -> bool:
        """Whether these are the parameters as they were: none came, went, moved or changed its size."""
        return len(params) == len(self._params) and all(
            p is known and p.device == device and local(p).numel() == size
            for p, (known, device, size) in zip(params, self._params, strict=True)
        )

    def has(self, dtype: torch.dtype) -> bool:
        """Whether a parameter is of that dtype."""
        return any(p.dtype == dtype for p, _, _ in self._params)

    def before(self, state: Mapping[Tensor, Any], *, with_grads: bool) -> None:
        """Copies parameters and second moments, and gradients where they are there already."""
        for it in self._watched:
            entry = state.get(it.param) or {}
            v = entry.get(self._v) if self._v is not None else None
            it.p = take(entry.get(MASTER, it.param), it.where)
            it.v = take(v, it.where) if isinstance(v, Tensor) else None
            it.g = _grad(it) if with_grads else None

    def after(
        self,
        state: Mapping[Tensor, Any],
        group: Mapping[str, Any],
        *,
        with_grads: bool,
        divided_by: float,
        backward_scale: float,
        exact_sums: bool,
    ) -> Elements | None:
        """The group's elements once the step has been taken; None where nothing dense was stepped.

        Args:
            state: the optimizer's.
            group: its hyperparameters.
            with_grads: whether the gradients are there only now (a closure made them).
            divided_by: what the step divided the copied gradients by.
            backward_scale: what the loss was multiplied by.
            exact_sums: whether the optimizer keeps small updates.

        Raises:
            KeyError: a state of the algorithm is not there.
        """
        stepped: list[Watched] = []
        self.left_out = {"unknown dtype": self._unknown} if self._unknown else {}
        hyper = hyper_of(self._algorithm, group)
        names = self._algorithm.state_names(hyper)
        for it in self._watched:
            if with_grads:
                it.g = _grad(it)
            if it.g is None:
                reason = "sparse gradient" if it.param.grad is not None and _sparse(it.param.grad) else "no gradient"
                self.left_out[reason] = self.left_out.get(reason, 0) + 1
                continue
            entry = state.get(it.param) or {}
            missing = [name for name in names if entry.get(name) is None] or missing_states(self._algorithm, entry)
            if missing:
                kept = ", ".join(map(str, entry)) or "nothing"
                raise KeyError(
                    f"the state of {it.name} has {kept}, and no {' and no '.join(missing)}: it is not "
                    f"{self._algorithm.title}'s"
                )
            stepped.append(it)
        if not stepped:
            return None
        entries = [state.get(it.param) or {} for it in stepped]
        states = {
            name: joined([take(entry[name], it.where) for it, entry in zip(stepped, entries, strict=True)])
            for name in names
        }
        before = None
        if self._v is not None and any(it.v is not None for it in stepped):
            before = joined([it.v if it.v is not None else torch.zeros_like(_there(it.p)) for it in stepped])
        grads = joined([_there(it.g) for it in stepped])
        found = Elements(
            algorithm=self._algorithm,
            hyper=hyper,
            step=steps_seen(entries, [it.count for it in stepped]),
            layers=tuple(self._layer(it, entry, group) for it, entry in zip(stepped, entries, strict=True)),
            states=states,
            v_before=before,
            params=joined([_there(it.p) for it in stepped]),
            grads=grads / divided_by if divided_by != 1.0 else grads,
            backward_scale=backward_scale,
            exact_sums=exact_sums
            or sums_exactly(str(name) for entry in entries for name in entry)
            or sums_exactly(str(name) for name, value in group.items() if value is True),
        )
        for it in self._watched:
            it.p = it.v = it.g = None
        return found

    def _layer(self, it: Watched, entry: Mapping[str, Any], group: Mapping[str, Any]) -> Layer:
        return layer_of(
            it.name,
            it.count,
            local(it.param).numel(),
            entry.get(MASTER, it.param),
            entry.get(self._v) if self._v is not None else None,
            fused=bool(group.get("fused")),
        )


def _grad(it: Watched) -> Tensor | None:
    grad = it.param.grad
    return None if grad is None or _sparse(grad) else take(grad, it.where)


def _sparse(grad: Tensor) -> bool:
    return grad.layout != torch.strided


def _there(part: Tensor | None) -> Tensor:
    assert part is not None
    return part


def _on(where: Tensor | None, param: Tensor) -> Tensor | None:
    return None if where is None else where.to(local(param).device)
