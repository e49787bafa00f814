"""Rules with one fault each: every rounding, contraction, branch and order of operations, broken in turn.

The faults are made in the source of the reference rules, their building blocks and the host scalars: an expression is
replaced by what a plausible wrong kernel would compute. `broken_functions` finds the places, whatever the rule.
"""

from __future__ import annotations

import ast
import copy
import inspect
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

_DTYPES = ("at.dtype", "at.grad", "at.state", "dtype")
"""How rules and blocks name the dtypes to which they round."""


def f32(x: float) -> float:
    """A double narrowed to float32."""
    with np.errstate(over="ignore"):
        return float(np.float32(x))


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A function of a module with one expression or the order of two statements changed.

    Attributes:
        module, function: which.
        before, after: the source that was replaced, and by what.
        code: the changed function's definition, compiled.
    """

    module: ModuleType
    function: str
    before: str
    after: str
    code: CodeType

    def __str__(self) -> str:
        return f"{self.module.__name__.split('.')[-1]}.{self.function}: {self.before} → {self.after}"


class Functions:
    """The plain functions of a module that some entries reach, to be run as they are or with one of them changed."""

    def __init__(self, module: ModuleType, entries: list[str], *, blocks: str, dtype: str) -> None:
        self.module, self.blocks, self.dtype = module, blocks, dtype
        tree = ast.parse(inspect.getsource(module))
        defined = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        plain = {n: d for n, d in defined.items() if isinstance(getattr(module, n), FunctionType)}
        self.uses = {n: {x.id for x in ast.walk(d) if isinstance(x, ast.Name)} & plain.keys() for n, d in plain.items()}
        reached: set[str] = set()
        for entry in entries:
            reached |= self.closure(entry)
        self.trees = {name: plain[name] for name in plain if name in reached}
        # By name, so that a changed function is called by the others.
        self._code = compile(ast.Module([*self.trees.values()], []), f"<{module.__name__}>", "exec", dont_inherit=True)

    def closure(self, name: str) -> set[str]:
        """The functions that ``name`` calls, itself included."""
        found, todo = {name}, [name]
        while todo:
            new = self.uses[todo.pop()] - found
            found |= new
            todo += new
        return found

    def namespace(self, code: CodeType | None = None, **replaced: Any) -> dict[str, Any]:
        """Fresh copies of the functions, one of them replaced by ``code``, with these globals."""
        names = {**vars(self.module), "f32": f32, **replaced}
        exec(self._code, names)
        if code is not None:
            exec(code, names)
        return names

    def mutants(self, *, rows: Mapping[str, bool]) -> Iterator[Mutant]:
        """Every fault of every function; ``rows`` are those that make host scalars, and whether they stay double."""
        for name, tree in self.trees.items():
            count: Counter[tuple[str, str]] = Counter()
            kind = _Rows(tree, double=rows[name]) if name in rows else _Rules(tree, self.blocks, self.dtype)
            for before, after, changed in broken_functions(tree, kind):
                count[before, after] += 1
                after += f" (place {count[before, after]})" if count[before, after] > 1 else ""
                code = compile(ast.Module([changed], []), f"<{self.module.__name__}>", "exec", dont_inherit=True)
                yield Mutant(module=self.module, function=name, before=before, after=after, code=code)


def _expression(source: str, **parts: ast.expr | str) -> ast.expr:
    """The expression of a template whose ``{names}`` are nodes or source."""
    text = {k: v if isinstance(v, str) else f"({ast.unparse(v)})" for k, v in parts.items()}
    return ast.parse(source.format(**text), mode="eval").body


class _Rows:
    """Faults of host scalars: what is formed in double is formed in float32.

    The entries themselves are left alone where the rule narrows them first thing: ``double`` says that it does not.
    """

    def __init__(self, tree: ast.FunctionDef, *, double: bool) -> None:
        assigned = [x for x in ast.walk(tree) if isinstance(x, ast.Assign)]
        returned = [x.value for x in ast.walk(tree) if isinstance(x, ast.Return)]
        returned += [x.value for x in assigned if ast.unparse(x.targets[0]) == "head"]
        entries = [x for value in returned for x in (value.elts if isinstance(value, ast.Tuple) else [value])]
        entries += [x.operand for x in entries if isinstance(x, ast.UnaryOp)]
        used = Counter(x.id for x in ast.walk(tree) if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Load))
        once = {x.id for x in entries if isinstance(x, ast.Name) and used[x.id] == 1}
        entries += [x.value for x in assigned if ast.unparse(x.targets[0]) in once]
        entries += [x for e in entries if isinstance(e, ast.IfExp) for x in (e.body, e.orelse)]
        self.narrowed = set() if double else {id(entry) for entry in entries}

    def of(self, node: ast.AST) -> Iterator[ast.expr]:
        field = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "hyper"
        number = field and node.attr not in ("betas", "decoupled_weight_decay")  # type: ignore[attr-defined]
        beta = isinstance(node, ast.Name) and "beta" in node.id and isinstance(node.ctx, ast.Load)
        if (isinstance(node, ast.BinOp) or number or beta) and id(node) not in self.narrowed:
            assert isinstance(node, ast.expr)
            yield _expression("f32({x})", x=node)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            yield node.operand
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and not isinstance(node.left, ast.Constant):
            yield _expression("{a} * (1 / {b})", a=node.left, b=node.right)
        if isinstance(node, ast.IfExp):
            yield node.body
            yield node.orelse


class _Rules:
    """Faults of rules: ``blocks`` is how they name the building blocks' module, ``dtype`` the dtype they round to.

    The new parameter is rounded when it is stored, so the rounding of the expression returned for it is left alone.
    """

    def __init__(self, tree: ast.FunctionDef, blocks: str, dtype: str) -> None:
        self.blocks, self.dtype = blocks, dtype
        returned = [x.value for x in ast.walk(tree) if isinstance(x, ast.Return) and isinstance(x.value, ast.Tuple)]
        self.stored = {id(entries.elts[0]) for entries in returned}

    def make(self, source: str, **parts: ast.expr) -> ast.expr:
        return _expression(source, ref=self.blocks, dtype=self.dtype, **parts)

    def block_of(self, node: ast.AST) -> tuple[str, list[ast.expr]]:
        """Name and arguments of a building block's call, or ""."""
        if not isinstance(node, ast.Call) or len(ast.unparse(node.func).split(".")) != (2 if self.blocks else 1):
            return "", []
        name = ast.unparse(node.func)
        return (name.removeprefix(self.blocks), node.args) if name.startswith(self.blocks) else ("", [])

    def of(self, node: ast.AST) -> Iterator[ast.expr]:
        yield from self._blocks(node)
        yield from self._roundings(node)
        yield from self._arithmetic(node)
        yield from self._branches(node)

    def _blocks(self, node: ast.AST) -> Iterator[ast.expr]:
        name, args = self.block_of(node)
        parts = dict(zip("abcde", args, strict=False))
        templates = {
            "fma": ["{a} * {b} + {c}"],
            "exact_sqrt": ["{a}.sqrt()"],
            "sqrt": ["{ref}round_to({a}.sqrt(), {b})"],
            "negate": ["{a}", "0 - {a}"],
            "div": ["{ref}mul({a}, 1 / {b}, {c})"],
            "maximum": ["torch.where({a} < {b}, {b}, {a})", "{a}", "{b}"],
            "add_scaled": ["{ref}round_to({a} + {ref}mul({b}, {c}, {d}), {d})", "{ref}round_to({a} + {b} * {c}, {d})"],
            "addcmul": [
                "{ref}round_to({ref}fma({b} * {d}, {c}, {a}), {e})",
                "{ref}round_to({ref}fma({b}, {c}, {a}), {e})",
                "{ref}round_to({ref}fma({b} * {c}, {d}, {a}), {e})",
                "{ref}round_to({ref}fma({ref}mul({b}, {c}, {e}), {d}, {a}), {e})",
            ],
            "addcdiv": [
                "{ref}round_to({a} + ({b} * {d}) / {c}, {e})",
                "{ref}round_to({a} + ({b} / {c}) * {d}, {e})",
                "{ref}round_to({ref}fma({ref}div({b}, {c}, {e}), {d}, {a}), {e})",
                "{ref}round_to({ref}fma({b} * (1 / {c}), {d}, {a}), {e})",
            ],
            "lerp": [
                "{ref}round_to({ref}fma({b} - {a}, {c}, {a}), {d})",
                "{ref}round_to({ref}fma(-(1 - {c}), {b} - {a}, {b}), {d})",
                "{ref}round_to({ref}fma({c}, {b}, (1 - {c}) * {a}), {d})",
                "{ref}round_to({a} + ({b} - {a}) * {c}, {d})",
            ],
            "narrow": ["{a}.unbind(0)", "tuple({ref}round_to(s, at.dtype) for s in {ref}narrow({a}))"],
            "round_to": ["{a}"],
        }
        for template in templates.get(name, ()):
            # A product with 1 is exact: only the quotient's own rounding is left to break.
            unit = name in ("addcdiv", "addcmul") and "ones_like" in ast.unparse(args[3])
            if not unit or "div(" in template or "mul(" in template:
                yield self.make(template, **parts)
        if name == "fma" and isinstance(args[2], ast.BinOp) and isinstance(args[2].op, ast.Mult):
            yield self.make("{ref}fma({x}, {y}, {a} * {b})", x=args[2].left, y=args[2].right, **parts)
        if name == "fma" and isinstance(args[0], ast.BinOp) and isinstance(args[0].op, ast.Mult):
            yield self.make("{ref}fma({x}, {y} * {b}, {c})", x=args[0].left, y=args[0].right, b=args[1], c=args[2])

    def _roundings(self, node: ast.AST) -> Iterator[ast.expr]:
        name, args = self.block_of(node)
        if (
            name
            and name != "round_to"
            and id(node) not in self.stored
            and ast.unparse(args[-1]) in (*_DTYPES, "torch.float32")
        ):
            other = "torch.float32" if ast.unparse(args[-1]) != "torch.float32" else self.dtype
            yield ast.Call(node.func, [*args[:-1], _expression(other)], [])
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.args:
            return
        inner = node.func.value
        if node.func.attr in ("double", "float"):
            if isinstance(inner, ast.Call) and ast.unparse(inner.func).endswith(".to"):
                yield inner.func.value  # type: ignore[attr-defined]
            else:
                yield inner
        if node.func.attr == "double":
            yield self.make("{x}.float()", x=inner)

    def _arithmetic(self, node: ast.AST) -> Iterator[ast.expr]:
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            yield node.operand
            if not isinstance(node.operand, ast.Constant) and "ones_like" not in ast.unparse(node.operand):
                yield _expression("0 - {x}", x=node.operand)
        if not isinstance(node, ast.BinOp):
            return
        left, right = node.left, node.right
        products = [isinstance(x, ast.BinOp) and isinstance(x.op, ast.Mult) for x in (left, right)]
        if isinstance(node.op, ast.Add):
            for product, addend, is_product in ((left, right, products[0]), (right, left, products[1])):
                if is_product and not isinstance(addend, ast.Subscript):
                    assert isinstance(product, ast.BinOp)
                    yield self.make("{ref}fma({a}, {b}, {c})", a=product.left, b=product.right, c=addend)
        elif isinstance(node.op, ast.Sub):
            yield _expression("{b} - {a}", a=left, b=right)
            if products[1]:
                assert isinstance(right, ast.BinOp)
                yield self.make("{ref}fma(-{a}, {b}, {c})", a=right.left, b=right.right, c=left)
        elif isinstance(node.op, ast.Div) and not isinstance(left, ast.Constant):
            yield _expression("{a} * (1 / {b})", a=left, b=right)
            if products[0]:
                assert isinstance(left, ast.BinOp)
                yield _expression("{a} * ({b} / {c})", a=left.left, b=left.right, c=right)

    def _branches(self, node: ast.AST) -> Iterator[ast.expr]:
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "at.has":
            yield _expression("not {x}", x=node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.where":
            yield node.args[1]
            yield node.args[2]
            condition = node.args[0]
            if isinstance(condition, ast.Compare) and ast.unparse(node.args[1]) == ast.unparse(
                condition.comparators[0]
            ):
                yield self.make("{ref}maximum({a}, {b})", a=node.args[2], b=node.args[1])
        elif isinstance(node, ast.Compare):
            swaps = {ast.Lt: ast.LtE, ast.Gt: ast.GtE, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.LtE: ast.Lt}
            if type(node.ops[0]) in swaps:
                yield ast.Compare(node.left, [swaps[type(node.ops[0])]()], node.comparators)
            bound = node.comparators[0]
            if isinstance(bound, ast.Constant) and isinstance(bound.value, (int, float)) and bound.value:
                step = 1 if isinstance(bound.value, int) else bound.value / 2
                for value in (bound.value + step, bound.value - step):
                    yield ast.Compare(node.left, node.ops, [ast.Constant(value)])
        elif isinstance(node, ast.BoolOp):
            for operand in node.values:
                others = [x for x in node.values if x is not operand]
                yield others[0] if len(others) == 1 else ast.BoolOp(node.op, others)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            yield node.left
            yield node.right
        elif isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mod, ast.FloorDiv)):
            twice = _expression("2 * {x}", x=node.right)
            yield ast.BinOp(node.left, node.op, twice)
        elif isinstance(node, ast.IfExp):
            yield node.body
            yield node.orelse


_VALUES = {"p", "g", "m", "v", "vmax", "d", "buf", "later", "new_p", "total", "mean", "angle", "quotient", "n"}


def broken_functions(tree: ast.FunctionDef, kind: Any) -> Iterator[tuple[str, str, ast.FunctionDef]]:
    """(source before, source after, function) of every fault of a kind in a function's body."""
    nodes = [(i, node) for i, node in enumerate(ast.walk(tree))]
    body = {id(node) for statement in tree.body for node in ast.walk(statement)}
    for index, node in nodes:
        if id(node) not in body:
            continue
        replacements = list(kind.of(node))
        if isinstance(kind, _Rules) and isinstance(node, ast.Assign):
            replacements += _rounded_assignments(node, tree, kind)
        for replacement in replacements:
            changed = copy.deepcopy(tree)
            target = list(ast.walk(changed))[index]
            changed = _Replace(target, copy.deepcopy(replacement)).visit(changed)
            after = ast.unparse(ast.fix_missing_locations(replacement))
            yield ast.unparse(node), after, ast.fix_missing_locations(changed)
    if isinstance(kind, _Rules):
        yield from _swapped_statements(tree)


def _rounded_assignments(node: ast.Assign, tree: ast.FunctionDef, kind: _Rules) -> Iterator[Any]:
    """A value kept in float32 is rounded to the parameter's dtype."""
    (target,) = node.targets
    name, args = kind.block_of(node.value)
    rounded = name and ast.unparse(args[-1]) in _DTYPES
    has_context = any(argument.arg == "at" for argument in tree.args.args)
    if isinstance(target, ast.Name) and target.id in _VALUES and has_context and not rounded:
        yield ast.Assign([target], kind.make("{ref}round_to({x}, {dtype})", x=node.value))


class _Replace(ast.NodeTransformer):
    def __init__(self, target: ast.AST, replacement: ast.AST) -> None:
        self.target, self.replacement = target, replacement

    def visit(self, node: ast.AST) -> Any:
        return self.replacement if node is self.target else self.generic_visit(node)


def _names(node: ast.AST, context: type) -> set[str]:
    return {x.id for x in ast.walk(node) if isinstance(x, ast.Name) and isinstance(x.ctx, context)}


def _swapped_statements(tree: ast.FunctionDef) -> Iterator[tuple[str, str, ast.FunctionDef]]:
    """Neighbouring statements in the other order, where one needs the other and both still run."""
    known = {argument.arg for argument in tree.args.args}
    for index in range(len(tree.body) - 1):
        first, second = tree.body[index], tree.body[index + 1]
        written = _names(first, ast.Store), _names(second, ast.Store)
        read = _names(first, ast.Load), _names(second, ast.Load)
        depends = written[0] & (read[1] | written[1]) or written[1] & read[0]
        new = written[0] - known
        if depends and not new & read[1] and not isinstance(second, ast.Return):
            changed = copy.deepcopy(tree)
            changed.body[index], changed.body[index + 1] = changed.body[index + 1], changed.body[index]
            yield ast.unparse(second).splitlines()[0], f"before {ast.unparse(first).splitlines()[0]}", changed
        known |= written[0]
