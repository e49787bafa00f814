"""From a quantity that differs to the line of the rule that made it."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from pathlib import Path
from typing import Any

from ..optimizers import registered


def rule_line(optimizer: str, recipe: str, quantity: str) -> dict[str, str] | None:
    """Where a recipe's rule last computes a quantity.

    Args:
        optimizer: torch's class name.
        recipe: of `kernels`.
        quantity: "param", or a state's name.

    Returns:
        `where` (file and line) and `text`, or None for a quantity that no rule computes, such as "step".
    """
    algorithm = registered(optimizer)
    names = ["param", *(state.name for state in algorithm.states)]
    if recipe not in algorithm.recipes or quantity not in names:
        return None
    return _trace(algorithm.recipes[recipe].rule, names.index(quantity))


def _trace(rule: Any, place: int) -> dict[str, str] | None:
    """Follow the returned value at `place` back to its last assignment, into helpers of the same file."""
    function = rule.fn
    module = sys.modules[function.__module__]
    lines, first = inspect.getsourcelines(function)
    tree = ast.parse(textwrap.dedent("".join(lines)))
    returned = next((node for node in ast.walk(tree) if isinstance(node, ast.Return)), None)
    if returned is None or not isinstance(returned.value, ast.Tuple) or place >= len(returned.value.elts):
        return None
    value = returned.value.elts[place]
    line = value.lineno
    if isinstance(value, ast.Name):
        found = _last_assignment(tree, value.id)
        if found is not None:
            node, index = found
            line = node.lineno
            called = node.value.func.id if _calls_a_name(node.value) else ""
            helper = getattr(module, called, None)
            if index is not None and hasattr(helper, "fn"):
                return _trace(helper, index) or _spot(function, first + line - 1, lines[line - 1])
    return _spot(function, first + line - 1, lines[line - 1])


def _last_assignment(tree: ast.AST, name: str) -> tuple[Any, int | None] | None:
    """The last assignment to a name, and the name's place where several are assigned at once."""
    found: tuple[Any, int | None] | None = None
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign) or (found is not None and node.lineno < found[0].lineno):
            continue
        target = node.targets[0]
        if isinstance(target, ast.Name) and target.id == name:
            found = node, None
        elif isinstance(target, ast.Tuple):
            names = [part.id if isinstance(part, ast.Name) else "" for part in target.elts]
            if name in names:
                found = node, names.index(name)
    return found


def _calls_a_name(value: ast.AST) -> bool:
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Name)


def _spot(function: Any, line: int, text: str) -> dict[str, str]:
    path = Path(inspect.getsourcefile(function) or "")
    return {"where": f"{path.parent.name}/{path.name}:{line}", "text": text.strip()}
