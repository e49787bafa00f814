"""LLVM IR as text: functions, structured loops and branches. No LLVM is needed to write it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence


class Code:
    """One function ``void name(parameters)`` of a module, written line by line.

    Args:
        name: of the function.
        parameters: LLVM type and name of each, such as ``("ptr", "table")``; ``%table`` is then its value.
    """

    def __init__(self, name: str, parameters: Sequence[tuple[str, str]]) -> None:
        self.name = name
        self._parameters = ", ".join(f"{kind} %{parameter}" for kind, parameter in parameters)
        self._lines: list[str] = []
        self._declared: dict[str, None] = {}
        self._count = 0
        self._blocks = 0

    def text(self) -> str:
        """The whole module."""
        head = [*self._declared, f"define void @{self.name}({self._parameters}) {{", "entry:"]
        return "\n".join([*head, *self._lines, "  ret void", "}", ""])

    def new(self, expression: str) -> str:
        """A value that is an expression, such as ``add i64 %a, 1``; its name."""
        # Named, not numbered: LLVM wants numbers without gaps, blocks included.
        self._count += 1
        self._lines.append(f"  %v{self._count} = {expression}")
        return f"%v{self._count}"

    def do(self, statement: str) -> None:
        """Something without a value, such as a store."""
        self._lines.append(f"  {statement}")

    def call(self, name: str, result: str, *operands: tuple[str, str]) -> str:
        """A call of an intrinsic with operands (type, value); its value."""
        self._declared[f"declare {result} @{name}({', '.join(kind for kind, _ in operands)})"] = None
        return self.new(f"call {result} @{name}({', '.join(f'{kind} {value}' for kind, value in operands)})")

    def address(self, kind: str, base: str, index: str) -> str:
        """The address of element ``index`` (i64) of an array of LLVM type ``kind``."""
        return self.new(f"getelementptr {kind}, ptr {base}, i64 {index}")

    def load(self, kind: str, base: str, index: str = "0") -> str:
        """Element ``index`` (i64) of an array of LLVM type ``kind``."""
        return self.new(f"load {kind}, ptr {self.address(kind, base, index) if index != '0' else base}")

    def fetch(self, address: str) -> None:
        """Ask for the cache line of an address, which need not be the program's: nothing is read that is not."""
        self._declared["declare void @llvm.prefetch.p0(ptr, i32, i32, i32)"] = None
        self.do(f"call void @llvm.prefetch.p0(ptr {address}, i32 0, i32 3, i32 1)")

    def local(self, kind: str, count: int) -> str:
        """The address of memory of the call itself, on a cache line's boundary; only before the first loop."""
        return self.new(f"alloca [{count} x {kind}], align 64")

    @contextlib.contextmanager
    def loop(self, begin: str, end: str, stride: int = 1) -> Iterator[str]:
        """``for index in range(begin, end, stride)`` over i64; gives the index."""
        enter, body, latch, leave = self._labels("enter", "body", "latch", "leave")
        index, following = f"%i.{body}", f"%n.{body}"
        some = self.new(f"icmp slt i64 {begin}, {end}")
        self.do(f"br i1 {some}, label %{enter}, label %{leave}")
        self._open(enter)
        self.do(f"br label %{body}")
        self._open(body)
        self.do(f"{index} = phi i64 [ {begin}, %{enter} ], [ {following}, %{latch} ]")
        yield index
        self.do(f"br label %{latch}")
        self._open(latch)
        self.do(f"{following} = add nsw i64 {index}, {stride}")
        more = self.new(f"icmp slt i64 {following}, {end}")
        self.do(f"br i1 {more}, label %{body}, label %{leave}")
        self._open(leave)

    @contextlib.contextmanager
    def fold(self, begin: str, end: str, kind: str, values: list[str]) -> Iterator[str]:
        """``for index in range(begin, end)``, at least once, with values of LLVM type ``kind`` carried along.

        ``values`` are the first; inside they are those that the pass has, to be replaced by what the next one gets, and
        after the loop they are the last.
        """
        enter, body, latch, leave = self._labels("enter", "body", "latch", "leave")
        index, following = f"%i.{body}", f"%n.{body}"
        self.do(f"br label %{enter}")
        self._open(enter)
        self.do(f"br label %{body}")
        self._open(body)
        self.do(f"{index} = phi i64 [ {begin}, %{enter} ], [ {following}, %{latch} ]")
        place, first = len(self._lines), list(values)
        values[:] = [f"%c{number}.{body}" for number in range(len(first))]
        carried = list(values)
        yield index
        self._lines[place:place] = [
            f"  {name} = phi {kind} [ {one}, %{enter} ], [ {last}, %{latch} ]"
            for name, one, last in zip(carried, first, values, strict=True)
        ]
        self.do(f"br label %{latch}")
        self._open(latch)
        self.do(f"{following} = add nsw i64 {index}, 1")
        more = self.new(f"icmp slt i64 {following}, {end}")
        self.do(f"br i1 {more}, label %{body}, label %{leave}")
        self._open(leave)

    @contextlib.contextmanager
    def when(self, condition: str) -> Iterator[None]:
        """``if condition`` (i1)."""
        body, leave = self._labels("then", "leave")
        self.do(f"br i1 {condition}, label %{body}, label %{leave}")
        self._open(body)
        yield
        self.do(f"br label %{leave}")
        self._open(leave)

    def _labels(self, *names: str) -> list[str]:
        self._blocks += 1
        return [f"{name}.{self._blocks}" for name in names]

    def _open(self, label: str) -> None:
        self._lines.append(f"{label}:")
