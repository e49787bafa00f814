"""The population step [models, n] against a copy of as many bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

import kernels

from ..clock import make_clock
from .problem import records

ELEMENTS = 1 << 26
WIDTHS = (49, 2410)


def population_steps(device: str, *, elements: int = ELEMENTS, rounds: int = 7) -> Iterator[dict[str, Any]]:
    """A row for each width and choice of hyperparameters: one record for all models, or one per arm."""
    clock = make_clock(device)
    for width in WIDTHS:
        for arms in (1, 8):
            models = elements // width // arms * arms
            params = torch.full((models, width), 0.5, device=device)
            grads = torch.full((models, width), 0.25, device=device)
            hypers = records("adam", arms) * (models // arms)
            population = kernels.Population("adam", hypers, params)
            bytes_moved = 28 * params.numel()
            population.step(grads)
            times = []
            for _ in range(rounds):
                kernel, _ = clock.kernel(lambda p=population, g=grads: p.step(g), 0.05)  # type: ignore[misc]
                times.append(kernel if kernel is not None else clock.step(lambda p=population, g=grads: p.step(g))[0])  # type: ignore[misc]
            whole = [clock.step(lambda p=population, g=grads: p.step(g))[0] for _ in range(3)]  # type: ignore[misc]
            time_ns = sorted(times)[len(times) // 2]
            copy = clock.copy_gb_per_s(min(bytes_moved, 1 << 31))
            yield {
                "models": models,
                "width": width,
                "records": arms,
                "optimizer": "Adam",
                "kernel_ns": time_ns,
                "whole_step_ns": sorted(whole)[1],
                "gb_per_s": bytes_moved / time_ns,
                "copy_gb_per_s": copy,
                "share_of_copy": bytes_moved / time_ns / copy,
            }
            del params, grads, population
