"""What a trainer's run costs on the host: `kernels.Trainer.run` as a GPU would see it; a stand-in takes its launches.

Launches are asynchronous, so a run's clock begins with whatever the host does before the train kernel is launched.
Everything but the launches themselves runs, on CPU tensors: what torch would do on the device it does on the CPU, which
is little where no run forms scalars per model. Torch's operations are counted in runs that are not timed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import kernels
from kernels.launch import numbers, rows
from kernels.population import launches_triton, trainer

from . import host_cost
from .population.peers import records
from .population.problem import Problem, problem
from .rows import quantiles

COLUMNS = (
    "run",
    "scalars",
    "models",
    "steps",
    "before_us",
    "q10_us",
    "q90_us",
    "host_us",
    "launches",
    "copies",
    "bytes_copied",
    "torch_calls",
    "waits",
)
RUNS = ("first", "again", "on")
"""A trainer's first run; one over the same steps after `restart`; one that goes on."""
MODELS = 512
STEPS = 200
_WAITS = frozenset({"_local_scalar_dense", "nonzero", "_unique2", "masked_select", "equal", "is_nonzero"})
_VIEWS = frozenset({"slice", "select", "view", "unsqueeze", "squeeze", "expand", "detach", "alias", "lift_fresh"})
"""Operations that ask nothing of a device: another tensor of the same memory."""


@dataclass
class Asked:
    """What was asked of a device.

    Attributes:
        launches: of the trainer's kernels.
        copies: host to device.
        bytes_copied: in all of them.
        torch_calls: torch's operations that compute or allocate.
        waits: torch's operations whose result the host waits for.
    """

    launches: int = 0
    copies: int = 0
    bytes_copied: int = 0
    torch_calls: int = 0
    waits: int = 0


@dataclass
class Seen(Asked):
    """What was asked so far, and `before` the first launch, which was `launched_ns` on the clock."""

    before: Asked | None = None
    launched_ns: int = 0

    def begin(self) -> None:
        """Count from 0."""
        self.__init__()  # type: ignore[misc]


class _Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, seen: Seen) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen = seen

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._schema.name.removeprefix("aten::")
        self._seen.waits += name in _WAITS
        self._seen.torch_calls += name not in _VIEWS
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def without_launches() -> Iterator[Seen]:
    """While this is open, trainers do all that they do on a GPU; a stand-in takes launches, and copies are counted."""
    seen = Seen()
    send = numbers.sent

    def launch(programs: int, arguments: tuple[int, ...]) -> None:
        if seen.before is None:
            seen.launched_ns = time.perf_counter_ns()
            seen.before = Asked(*[getattr(seen, name) for name in Asked.__dataclass_fields__])
        seen.launches += 1

    def first_launch(self: Any, programs: int, tensors: Sequence[Tensor], counts: tuple[int, ...]) -> Any:
        launch(programs, ())
        return launch

    def counted(array: Any, device: torch.device) -> Tensor:
        seen.copies += 1
        seen.bytes_copied += array.nbytes
        return send(array, device)

    def resolved(backend: str, device: torch.device) -> str:
        return "triton"

    with (
        # Kernels of its own: others keep what launches them.
        mock.patch.object(launches_triton, "_kernel", launches_triton._kernel.__wrapped__),
        mock.patch.object(launches_triton.Kernel, "_first_launch", first_launch),
        mock.patch.object(trainer, "resolve_backend", resolved),
        mock.patch.object(numbers, "sent", counted),
        mock.patch.object(rows, "sent", counted),
    ):
        yield seen


def cost_rows(rounds: int) -> Iterator[dict[str, Any]]:
    """A row of every kind of run, with scalars of a block's models in common and of every model's own.

    Args:
        rounds: samples of each.
    """
    given = problem(models=MODELS, steps=STEPS)
    for own in (False, True):
        for kind in RUNS:
            with without_launches() as seen:
                before, whole = [], []
                run = _run(given, kind, own)
                for _ in range(rounds):
                    ready = run()
                    seen.begin()
                    began = time.perf_counter_ns()
                    ready()
                    whole.append(time.perf_counter_ns() - began)
                    before.append(seen.launched_ns - began)
                ready = run()
                seen.begin()
                with _Counted(seen):
                    ready()
            spread, all_of_it = quantiles(before) or {}, quantiles(whole) or {}
            yield {
                "run": kind,
                "scalars": "per model" if own else "per block",
                "models": given.models,
                "steps": given.steps,
                "before_us": spread["median"] / 1e3,
                "q10_us": spread["q10"] / 1e3,
                "q90_us": spread["q90"] / 1e3,
                "host_us": all_of_it["median"] / 1e3,
                **{name: getattr(seen, name) for name in Asked.__dataclass_fields__},
                "before": asdict(seen.before) if seen.before else None,
                "samples_ns": before,
            }


def cost_lines(rounds: int) -> list[dict[str, Any]]:
    """The functions in which runs that go on spend their time, scalars per block."""
    with without_launches():
        return host_cost.lines(_run(problem(models=MODELS, steps=STEPS), "on", False)(), rounds)


def _trainer(given: Problem, own: bool) -> kernels.Trainer:
    every = records(given)
    return kernels.Trainer(
        "adam",
        every if own else every[: given.arms],
        given.params.clone(),
        network=given.network,
        loss_scale=given.loss_scale,
        backend="triton",
    )


def _run(given: Problem, kind: str, own: bool) -> Callable[[], Callable[[], Any]]:
    """What makes ready a run of that kind and returns it."""
    held = _trainer(given, own)
    held.run(given.data)

    def ready() -> Callable[[], Any]:
        chosen = _trainer(given, own) if kind == "first" else held
        if kind == "again":
            chosen.restart(given.params)
        return lambda: chosen.run(given.data)

    return ready
