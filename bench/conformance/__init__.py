"""Bit-level comparison of optimizers: cases as data, workers that survive a hang, rows that say where bits part."""

from __future__ import annotations

from .cases import Case, cpu_cases, cuda_cases

__all__ = ["Case", "cpu_cases", "cuda_cases"]
