"""Optimizers that do what nobody expects of one; each is RightSGD but for one habit."""

import os
import sys
import threading
import time
from typing import Any

import torch

from tests.bench.example_optimizers import RightSGD

RELEASED = threading.Event()
"""What the threads that are left wait for."""


class ExitsAtConstruction(RightSGD):
    def __init__(self, params: Any, **options: Any) -> None:
        sys.exit("planted")


class ExitsAtStep(RightSGD):
    def _step_one(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        raise SystemExit(3)


class LeavesAtStep(RightSGD):
    def _step_one(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        os._exit(0)


class InterruptsItself(RightSGD):
    def _step_one(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        raise KeyboardInterrupt


class Generates(RightSGD):
    def _step_one(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        raise GeneratorExit("planted")


class Recurses(RightSGD):
    def _step_one(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        self._step_one(p, group)


class MadeElsewhere(RightSGD):
    def __new__(cls, *args: Any, **options: Any) -> Any:
        return 5


class NoLearningRate(RightSGD):
    def __init__(self, params: Any, momentum: float = 0.0, dampening: float = 0.0, weight_decay: float = 0.0) -> None:
        super().__init__(params, 1e-3, momentum, dampening, weight_decay)


class EntryIsANumber(RightSGD):
    def _step_one(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        p.add_(p.grad, alpha=-group["lr"])
        self.state[p] = 7


class StateIsGone(RightSGD):
    def _step_group(self, params: list[torch.Tensor], group: dict[str, Any]) -> None:
        super()._step_group(params, group)
        self.state = None  # type: ignore[assignment]


class StatesAreWords(RightSGD):
    """Right, with a counter and other entries that are no numbers under torch's names."""

    def _step_one(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        super()._step_one(p, group)
        self.state[p].update(step="three", exp_avg=[1, 2], exp_avg_sq=None, sum=3, note="mine")


class GroupsAreGone(RightSGD):
    def _step_group(self, params: list[torch.Tensor], group: dict[str, Any]) -> None:
        super()._step_group(params, group)
        self.param_groups.clear()


class GroupsAreOdd(RightSGD):
    def _step_group(self, params: list[torch.Tensor], group: dict[str, Any]) -> None:
        super()._step_group(params, group)
        self.param_groups = 5  # type: ignore[assignment]


class Moves(RightSGD):
    def _step_one(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        p.data = p.data.to("meta")


class ReturnsAWord(RightSGD):
    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        return "done"


class SaysNothing(RightSGD):
    class Error(RuntimeError):
        def __str__(self) -> str:
            raise OSError("nothing")

    def __init__(self, params: Any, **options: Any) -> None:
        raise self.Error


class SaysHalf(RightSGD):
    def _step_one(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        raise ValueError("half \ud800")


class Prints(RightSGD):
    def _step_one(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        super()._step_one(p, group)
        print("a step")
        os.write(1, b"and another line\n")


class TakesForEver(RightSGD):
    def _step_one(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        while True:
            time.sleep(0.01)


class LeavesThreads(RightSGD):
    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, **options)
        threading.Thread(target=RELEASED.wait, args=(600,), name="left").start()


class KeepsItsOwnBuffers(RightSGD):
    """Momentum in a list of its own, which torch does not see, and twice as much of it."""

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, **options)
        self.kept = [[torch.zeros(2 * p.numel())] for group in self.param_groups for p in group["params"]]

    def _is_first(self, p: torch.Tensor) -> bool:
        return True

    def _step_one(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        super()._step_one(p, {**group, "momentum": 0})


class ScalesGradients(RightSGD):
    def _step_one(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        assert p.grad is not None
        p.grad.mul_(0.25)
        super()._step_one(p, group)


class TakesGradients(RightSGD):
    def _step_one(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        if p.grad is not None:
            super()._step_one(p, group)
            p.grad = None


class FreesGradients(RightSGD):
    def _step_one(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        super()._step_one(p, group)
        assert p.grad is not None
        p.grad.untyped_storage().resize_(0)


class SetsForAll(RightSGD):
    def _step_one(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        super()._step_one(p, group)
