"""The two ways in which optimizers look at what may have changed: compiled, and with torch's methods."""

from typing import Any

import pytest

from kernels.optim import native, planning

WAYS = ("compiled", "methods")


def compiled_look() -> Any:
    """The compiled module; a test that is about it alone, or compares it, is skipped where it cannot be had."""
    built = native.compiled_look()
    # Optional: without a compiler optimizers look by methods, which is the other way of every such test.
    if built is None:
        pytest.skip("no compiler, or another torch: looks.c cannot be built here")
    return built


def look_by(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let optimizers of any size look this way."""
    if way == "methods":
        monkeypatch.setattr(planning, "compiled_look", lambda: None)
        return
    compiled_look()
