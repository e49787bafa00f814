"""What a probe adds to a step: its hooks by a clock around them, and the same training with and without one, in turns.

    python examples/probe_cost.py
    python examples/probe_cost.py --width 1024 --every 100

A turn is ``--every`` steps, one of them looked at. The clock says what the probe's hooks take in a turn, as the median
over turns, less what the same clock counts in a turn without the probe, for reading it takes time too; on a GPU a look
waits there for what the step left to do. Turns with and without the probe alternate: the share by which a step becomes
longer is the median over pairs of turns, with its middle half beside it.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from sklearn.datasets import load_digits

import lossscale


class Stopwatch:
    """Seconds between its two hooks before a step, and between those after it: of the hooks that lie between them."""

    def __init__(self, optimizer: torch.optim.Optimizer, clock: Callable[[], float]) -> None:
        self._optimizer, self._clock, self._started = optimizer, clock, 0.0
        self.seconds = 0.0
        self._handles: list[Any] = []
        self._add(self._start)

    def close(self) -> None:
        """Hooks from here on are not measured."""
        self._add(self._stop)

    def remove(self) -> None:
        """Takes the stopwatch off the optimizer."""
        for handle in self._handles:
            handle.remove()

    def _add(self, hook: Callable[..., None]) -> None:
        self._handles += [self._optimizer.register_step_pre_hook(hook), self._optimizer.register_step_post_hook(hook)]

    def _start(self, *_: Any) -> None:
        self._started = self._clock()

    def _stop(self, *_: Any) -> None:
        self.seconds += self._clock() - self._started


def turn(model: torch.nn.Module, optimizer: Any, batch: tuple[torch.Tensor, ...], steps: int) -> float:
    """Seconds for some steps of training: of this process on a CPU, whoever else is at work there."""
    images, labels = batch
    clock = time.perf_counter if images.is_cuda else time.process_time
    start = clock()
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    if images.is_cuda:
        torch.cuda.synchronize()
    return clock() - start


def main(argv: Sequence[str] | None = None) -> float:
    """Time both, print and return the added share of a step."""
    parser = argparse.ArgumentParser(description="What a probe adds to a step of training digits.")
    parser.add_argument("--width", type=int, default=256, help="of the two hidden layers")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--turns", type=int, default=20)
    arguments = parser.parse_args(argv)
    logging.getLogger("lossscale.probe").setLevel(logging.ERROR)  # one batch again and again: gradients vanish
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = load_digits()
    images = torch.tensor(data.data[: arguments.batch] / 16, dtype=torch.float32, device=device)
    labels = torch.tensor(data.target[: arguments.batch], device=device)
    width = arguments.width
    layers = (torch.nn.Linear(64, width), torch.nn.ReLU(), torch.nn.Linear(width, width), torch.nn.ReLU())
    model = torch.nn.Sequential(*layers, torch.nn.Linear(width, 10)).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    turn(model, optimizer, (images, labels), arguments.every)
    shares, plain, hooks = [], [], []
    clock = time.perf_counter if device == "cuda" else time.process_time
    for _ in range(arguments.turns):
        stopwatch = Stopwatch(optimizer, clock)
        stopwatch.close()
        without = turn(model, optimizer, (images, labels), arguments.every)
        stopwatch.remove()
        of_the_clock = stopwatch.seconds
        stopwatch = Stopwatch(optimizer, clock)
        probe = lossscale.Probe(optimizer, every=arguments.every, model=model)
        stopwatch.close()
        turn(model, optimizer, (images, labels), 1)  # the first step is looked at too; not timed
        stopwatch.seconds = 0.0
        watched = turn(model, optimizer, (images, labels), arguments.every)
        assert probe.take() is not None
        probe.detach()
        stopwatch.remove()
        hooks.append(stopwatch.seconds - of_the_clock)
        shares.append(watched / without - 1)
        plain.append(without / arguments.every)
    low, middle, high = statistics.quantiles(shares, n=4)
    step, spent = statistics.median(plain), statistics.median(hooks)
    print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters on {device}: a step takes {step * 1e3:.2f} ms; in "
        f"{arguments.every} steps the probe's hooks take {spent * 1e3:.2f} ms, {spent / step / arguments.every:.2%}; "
        f"in turns the probe adds {middle:.2%} ({low:.2%} to {high:.2%})"
    )
    return middle


if __name__ == "__main__":
    main()
