"""Names that users give, and values in errors of one line."""

from __future__ import annotations

from reprlib import repr as short
from typing import Any

from torch import Tensor


def shown(value: Any) -> str:
    """A value in one short line: a tensor of one number as that number, others by shape and dtype."""
    if isinstance(value, Tensor):
        try:
            if value.numel() != 1:
                raise RuntimeError
            value = value.item()
        except RuntimeError:  # many, on the meta device, or mapped over
            return f"a tensor of shape {tuple(value.shape)} and {value.dtype}"
    return " ".join(short(value).split())


def check_name(what: str, value: Any, remedy: str) -> None:
    """Refuse what is no text where a name is wanted.

    Raises:
        TypeError: with the remedy.
    """
    if not isinstance(value, str):
        raise TypeError(f"{what}: {shown(value)} is no name; {remedy}")
