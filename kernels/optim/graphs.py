"""Steps replayed as CUDA graphs, for optimizers that were given to `graphed`.

A graph holds launches with the addresses of the tables that they read; what stands in the tables may change. So a
replayed step looks at everything that an ordinary one looks at, sends what has changed, and leaves out only the
launches and the device's counting. Where something changed that a graph cannot follow, steps are ordinary ones until
nothing has changed for a while, and a new graph is taken.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .known import Known
    from .optimizer import StepOptimizer
    from .plans import Plan

_PATIENCE, _MOST_PATIENCE = 2, 1024
"""Ordinary steps before a capture, and the most after captures that did not last; each doubles them."""

AnyOptimizer = TypeVar("AnyOptimizer", bound="StepOptimizer")


class Recorder(Protocol):
    """What graphs are made with."""

    def takes(self, plan: Plan) -> bool:
        """Whether a plan's launches can be recorded."""

    def busy(self) -> bool:
        """Whether somebody else is recording here and now."""

    def record(self, device: torch.device, work: Callable[[], None]) -> Callable[[], Any]:
        """Run `work` without its effects on the device; the result has them, as often as it is called."""


class CudaRecorder:
    """torch.cuda.CUDAGraph."""

    def takes(self, plan: Plan) -> bool:
        """Launches of compiled kernels on a GPU."""
        return plan.backend == "triton" and plan.device.type == "cuda"

    def busy(self) -> bool:
        """Whether the current stream is being captured."""
        return torch.cuda.is_current_stream_capturing()

    def record(self, device: torch.device, work: Callable[[], None]) -> Callable[[], Any]:
        """Capture on a stream of its own; other threads (a loader that pins memory) go on meanwhile."""
        with torch.cuda.device(device):
            graph = torch.cuda.CUDAGraph()
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                work()
        replay: Callable[[], Any] = graph.replay
        return replay


class Graphs:
    """The graphs of an optimizer, one a device.

    Attributes:
        captures, replays: how many there were.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.captures = self.replays = 0
        self._recorder = recorder
        self._known: Known | None = None
        self._waited = 0
        self._patience = _PATIENCE
        self._taken: list[Plan] = []
        self._others: list[Plan] = []
        self._read: list[Tensor] = []
        self._addresses: list[int] = []
        self._graphs: list[Callable[[], Any]] = []

    def step(self, known: Known) -> None:
        """One quiet step: a replay where a graph holds, else an ordinary one, or one that is captured and replayed."""
        if self._known is not known:
            self._known, self._waited = known, 0
            self._drop()
            self._taken = [plan for plan in known.plans if self._recorder.takes(plan) and plan.is_capturable]
            self._others = [plan for plan in known.plans if plan not in self._taken]
        if not self._taken or self._recorder.busy():
            _step(known.plans, known)
            return
        for plan in self._taken:
            plan.bring_up(known.hypers)
        if self._graphs and self._holds():
            for graph in self._graphs:
                graph()
            for plan in self._taken:
                plan.replayed()
            _step(self._others, known)
            self.replays += 1
            return
        self._drop()
        if self._waited < self._patience:
            self._waited += 1
            _step(known.plans, known)
            return
        self._capture(known)
        for graph in self._graphs:
            graph()
        _step(self._others, known)

    def forget(self) -> None:
        """Keep nothing of earlier steps."""
        self._known, self._taken, self._others = None, [], []
        self._drop()

    def _capture(self, known: Known) -> None:
        devices = list(dict.fromkeys(plan.device for plan in self._taken))
        graphs = []
        for device in devices:
            here = [plan for plan in self._taken if plan.device == device]
            sent = sum(plan.copies_captured for plan in here)
            graphs.append(self._recorder.record(device, lambda plans=here: _step(plans, known)))  # type: ignore[misc]
            # A recorded copy would undo, at every replay, what is sent later.
            assert sum(plan.copies_captured for plan in here) == sent
        self._graphs = graphs
        self._read = self._reads()
        self._addresses = list(map(Tensor.data_ptr, self._read))
        self.captures += 1
        self._waited = 0

    def _reads(self) -> list[Tensor]:
        return [tensor for plan in self._taken for tensor in plan.launched_with()]

    def _holds(self) -> bool:
        """Whether launches would be given what the captured ones were given."""
        now = self._reads()
        return (
            len(now) == len(self._read)
            and all(map(operator.is_, now, self._read))
            and list(map(Tensor.data_ptr, now)) == self._addresses
        )

    def _drop(self) -> None:
        if self._graphs:
            self._patience = min(2 * self._patience, _MOST_PATIENCE)
        self._graphs, self._read, self._addresses = [], [], []


def _step(plans: list[Plan], known: Known) -> None:
    for plan in plans:
        plan.step(known.hypers, None, None)


def graphed(optimizer: AnyOptimizer) -> AnyOptimizer:
    """Let an optimizer replay its steps as a CUDA graph; its bits and everything else about it stay as they are.

    After two steps in which nothing changed but what tables hold (gradients, learning rates and other hyperparameters),
    ``step()`` captures one, and replays it from then on. Every step still looks at all that may change; where a graph
    cannot follow (tensors of other shapes, states replaced, options switched), steps are ordinary ones until another
    capture. A step that is given a scale by GradScaler is ordinary, as is one inside somebody else's capture. A capture
    empties torch's cache of free memory once.

    Args:
        optimizer: of this package, its parameters on GPUs, with a step that is counted on the device or not at all:
            ``fused``, ``capturable`` Adam, SGD, RMSprop.

    Returns:
        The optimizer. A copy of it (``copy.deepcopy``, a pickle) has no graph.

    Raises:
        TypeError: if it is no optimizer of this package.
        ValueError: if its recipe counts steps on the host, or parameters are not on a GPU, or another backend than
            ``triton`` was asked for.
    """
    from .optimizer import StepOptimizer

    if not isinstance(optimizer, StepOptimizer):
        kind = f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"
        raise TypeError(f"optimizer: {kind} is none of kernels' optimizers; make it with kernels.AdamW, say")
    algorithm, recipe = optimizer.algorithm, optimizer.recipe
    if algorithm.rows_count(recipe):
        raise ValueError(
            f"optimizer: {algorithm.title} with recipe {recipe.name!r} counts its steps on the host, which no graph "
            "repeats; use recipe='fused', or capturable=True where torch has it"
        )
    if optimizer.backend not in ("auto", "triton"):
        raise ValueError(f"optimizer: backend {optimizer.backend!r} launches no kernels on a GPU; leave backend out")
    elsewhere = sorted({p.device.type for group in optimizer.param_groups for p in group["params"]} - {"cuda"})
    if elsewhere:
        raise ValueError(f"optimizer: it has parameters on {' and '.join(elsewhere)}; graphs need them on a GPU")
    optimizer.take_graphs(Graphs(CudaRecorder()))
    return optimizer
