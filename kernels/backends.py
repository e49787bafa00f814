"""Which backends run here, and the hash of what decides an algorithm's machine code."""

from __future__ import annotations

import hashlib
import inspect
import io
import sys
import tokenize

import torch

from . import arithmetic, launch
from .algorithm import get_algorithm
from .launch import BACKENDS, resolve_backend


def backends() -> dict[str, str]:
    """Backend name to "" where it can be used in this process, else the reason why not."""
    reasons = {}
    for name in BACKENDS:
        device = torch.device("cuda" if name == "triton" else "cpu")
        try:
            resolve_backend(name, device)
            reasons[name] = "" if device.type == "cpu" or torch.cuda.is_available() else "no CUDA device"
        except ValueError as error:
            reasons[name] = str(error)
    return reasons


def _code(source: str) -> str:
    """Source without comments and blank lines."""
    skipped = (tokenize.COMMENT, tokenize.NL)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return " ".join(token.string for token in tokens if token.type not in skipped)


def fingerprint(algorithm: str) -> str:
    """Hash of the algorithm's file, the arithmetic and the launch, without comments: a result with another is stale."""
    rules = sys.modules[next(iter(get_algorithm(algorithm).recipes.values())).rule.fn.__module__]
    digest = hashlib.sha256()
    for module in (rules, arithmetic, launch):
        digest.update(_code(inspect.getsource(module)).encode())
    return digest.hexdigest()[:16]
