"""A checkpoint's groups as elements, and what is told of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from torch import Tensor

from kernels import Algorithm

from ..checkpoints.files import Checkpoint
from ..checkpoints.groups import read_group
from ..checkpoints.params import parameters_beside
from ..checkpoints.states import Kept, kind_without_products, read_states
from ..diagnose import findings, margins, numbers
from ..diagnose.elements import Elements, Layers, format_of, layer_of, second_moment, steps_seen
from ..diagnose.recognise import MASTER, sums_exactly
from ..diagnose.sampling import counts, joined, places, take

_ELEMENTS: Final = 2**20
"""Elements of a group that are looked at."""

_MARGINS: Final = {
    "eps_below_half": "binades by which eps is below half of the update,",
    "v_above_subnormal": "binades of v above subnormal numbers,",
    "v_below_overflow": "binades of v below overflow,",
    "loss_down": "binades that the loss may be divided by until",
    "loss_up": "binades that the loss may be multiplied by until",
}


class Inspection:
    """What a checkpoint says.

    Args:
        at: the file.
        algorithm: what saved it.

    Raises:
        InputError: its states or hyperparameters are not the algorithm's.
    """

    def __init__(self, at: Checkpoint, algorithm: Algorithm) -> None:
        self._at, self._algorithm = at, algorithm
        self._groups = [read_group(algorithm, group, at) for group in at.state_dict["param_groups"]]
        states = read_states(at, algorithm, self._groups)
        self._params, self._how = parameters_beside(at)
        self.stateless = not any(states)
        """Whether there are no states at all."""
        self.left_out = 0
        """Parameters without a state, before their first step, or with one in a dtype that is not known."""
        self._elements = [self._of_group(place, kept) for place, kept in enumerate(states)]
        self._numbers = [None if e is None else numbers.count(e) for e in self._elements]
        self.warnings: list[findings.Finding] = []
        """What deserves one, group by group."""
        for place, (elements, counted) in enumerate(zip(self._elements, self._numbers, strict=True)):
            if elements is not None and counted is not None:
                self.warnings += findings.find(elements, counted, place)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each number and margin of each group."""
        found = []
        for place, (elements, counted) in enumerate(zip(self._elements, self._numbers, strict=True)):
            label = {"group": place} if len(self._elements) > 1 else {}
            if elements is None or counted is None:
                found.append({**label, "number": "elements", "value": 0.0, "is": "no states that can be read"})
                continue
            found.append({**label, "number": "step", "value": _fewest(elements.step), "is": "steps that v has seen"})
            for name, value in counted.group.items():
                found.append({**label, "number": name, "value": value, "is": numbers.MEANING[name]})
            for name, (value, of) in margins.margins(elements).items():
                found.append({**label, "number": name, "value": value, "is": f"{_MARGINS[name]} {of}"})
        return found

    def layer_rows(self) -> list[dict[str, Any]]:
        """A row for each parameter."""
        found: list[dict[str, Any]] = []
        for place, (elements, counted) in enumerate(zip(self._elements, self._numbers, strict=True)):
            if elements is None or counted is None:
                continue
            for layer, row in zip(elements.layers, counted.layers, strict=True):
                found.append({"group": place, "layer": layer.name, "elements": layer.size, **row})
        names = dict.fromkeys(name for row in found for name in row)
        return [{name: row.get(name) for name in names} for row in found]

    def notes(self, candidates: Sequence[Algorithm]) -> Iterator[str]:
        """What has to be known about the table."""
        titles = " or ".join(algorithm.title for algorithm in candidates)
        yield f"{self._at.path} was saved by {titles}; parameters: {self._how}."
        if len(candidates) > 1:
            yield f"Read as {candidates[0].title}'s, by which only the decay differs: name one with --optimizer."
        if self.stateless:
            yield "It holds no states, as before the first step or under SGD without momentum."
        some = [elements for elements in self._elements if elements is not None]
        if any(elements.update_is_typical for elements in some):
            yield "It holds no gradients: updates are those of gradients as large as r."
        if any(elements.eps is not None and not numbers.settled(elements) for elements in some):
            yield "v has seen fewer steps than it remembers: no quantiles of eps/r yet."
        if self.left_out:
            yield (
                f"{self.left_out} parameters are left out: no state, no step taken yet, or a state that is none of "
                "fp32, bf16 and fp16."
            )
        absent = {name: getattr(group.record, name) for group in self._groups for name in group.absent}
        if absent:
            taken = ", ".join(f"{name} {value}" for name, value in absent.items())
            yield f"It does not say all that {self._algorithm.title} needs; its defaults are taken: {taken}."
        if self._at.others:
            yield f"It holds other optimizers too: {', '.join(self._at.others) or 'at its top'}."

    def _of_group(self, number: int, states: Kept) -> Elements | None:
        group, hyper = self._at.state_dict["param_groups"][number], self._groups[number].record
        names = self._algorithm.state_names(hyper)
        kept = [(place, entry) for place, entry in states if names and self._is_readable(entry, names)]
        self.left_out += len(group["params"]) - len(kept)
        if not kept:
            return None
        sizes = [_first(entry, names).numel() for _, entry in kept]
        looked = counts(sizes, _ELEMENTS)
        where = [places(size, count) for size, count in zip(sizes, looked, strict=True)]
        params = [
            _fitting(entry.get(MASTER, self._params.get(place, ("", None))[1]), size)
            for (place, entry), size in zip(kept, sizes, strict=True)
        ]
        v = second_moment(self._algorithm)
        layers = Layers(
            layer_of(
                self._params.get(place, (f"group{number}.{place}", None))[0],
                count,
                size,
                param if param is not None else _first(entry, names),
                entry.get(v) if v is not None else None,
                fused=group.get("fused") is True,
            )
            for (place, entry), param, size, count in zip(kept, params, sizes, looked, strict=True)
        )
        known = [param for param in params if param is not None]
        return Elements(
            algorithm=self._algorithm,
            hyper=hyper,
            step=steps_seen([entry.get("step") for _, entry in kept], looked),
            layers=layers,
            states={
                name: joined([take(entry[name], at) for (_, entry), at in zip(kept, where, strict=True)])
                for name in names
            },
            params=joined(list(map(take, known, where))) if len(known) == len(kept) else None,
            exact_sums=sums_exactly(str(name) for _, entry in kept for name in entry)
            or sums_exactly(str(name) for name, value in group.items() if value is True),
        )

    def _is_readable(self, entry: Mapping[str, Any], names: Sequence[str]) -> bool:
        """Whether there are elements of known formats, and a step has been taken."""
        tensors = [entry[name] for name in names]
        stepped = not self._algorithm.stateful_step or float(entry["step"]) > 0
        return stepped and all(format_of(tensor) is not None for tensor in tensors) and bool(tensors[0].numel())


def _first(entry: Mapping[str, Any], names: Sequence[str]) -> Tensor:
    found: Tensor = entry[names[0]]
    return found


def _fitting(param: Tensor | None, size: int) -> Tensor | None:
    """A parameter that can stand beside states of that size."""
    usable = param is not None and kind_without_products(param) is None and format_of(param) is not None
    return param if usable and param is not None and param.numel() == size else None


def _fewest(step: float | Tensor) -> float:
    return float(step.min()) if isinstance(step, Tensor) else step
