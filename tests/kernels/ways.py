"""The two ways in which optimizers look at what may have changed: compiled, and with torch's methods."""

import pytest

from kernels.optim import native

WAYS = ("compiled", "methods")


def look_by(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let optimizers of any size look this way."""
    if way == "methods":
        monkeypatch.setattr(native, "_built", lambda: None)
        return
    # Optional: without a compiler optimizers look by methods, which is the other way of every such test.
    if native._built() is None:
        pytest.skip("no compiler, or another torch: looks.c cannot be built here")
    monkeypatch.setattr(native, "FEWEST", 0)
