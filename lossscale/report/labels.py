"""How pages and pictures spell things."""

from __future__ import annotations

import re


def optimizer_label(name: str, options: str = "") -> str:
    """``"adam", "eps=0.001"`` → ``"Adam eps=0.001"``."""
    import kernels

    try:
        title = kernels.get_algorithm(name).title
    except ValueError:
        title = name
    return f"{title} {options}".strip()


def raised_powers(text: str) -> str:
    """``2^k`` and ``10^-4`` with raised exponents."""
    raised = str.maketrans("-0123456789k", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹ᵏ")
    return re.sub(r"\^(-?\d+|k)", lambda found: found[1].translate(raised), text)
