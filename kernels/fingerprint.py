"""The hash of what decides an algorithm's machine code."""

from __future__ import annotations

import hashlib
import inspect
import io
import sys
import tokenize
from types import ModuleType

import triton.language as tl

from .algorithm import get_algorithm
from .launch import step_kernel
from .launch.dtypes import line_dtypes
from .rounding import arithmetic, flags


def _code(source: str) -> str:
    """Source without comments, trailing blanks and blank lines: the same text under every Python version."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _triton_code(module: ModuleType) -> list[str]:
    """The Triton functions of a module and the constants they use, by name."""
    found = []
    for name, value in sorted(vars(module).items()):
        if isinstance(value, tl.constexpr):
            found.append(f"{name} = {value.value!r}")
        elif hasattr(value, "fn") and value.fn.__module__ == module.__name__:
            found.append(inspect.getsource(value.fn))
    return found


def fingerprint(algorithm: str) -> str:
    """Hash of what decides the algorithm's machine code, without comments: a result with another is stale.

    The Triton functions of its file, of the arithmetic and of the step kernel, the flags, and how the kernel is
    specialised and launched; host code that only fills tables does not count.
    """
    rules = sys.modules[next(iter(get_algorithm(algorithm).recipes.values())).rule.fn.__module__]
    sources = [code for module in (rules, arithmetic, flags, step_kernel) for code in _triton_code(module)]
    specialised = (step_kernel.kernel_constants, step_kernel.launch_options, line_dtypes)
    sources += [inspect.getsource(function) for function in specialised]
    sources.append(f"{step_kernel.BLOCK} {step_kernel.LAUNCH_OPTIONS}")
    digest = hashlib.sha256()
    for source in sources:
        digest.update(_code(source).encode())
    return digest.hexdigest()[:16]
