"""Our own kernels with one fault each, and whether the suite notices: who tests the tests."""

from __future__ import annotations

from .catalog import MUTANTS, UNKILLABLE
from .mutant import Edit, Mutant

__all__ = ["MUTANTS", "UNKILLABLE", "Edit", "Mutant"]
