"""Running the Python behind a ``@triton.jit`` function, with `triton.language` recording instead of compiling."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import triton.language as tl

from ...rounding import arithmetic
from .operations import WIDE, plain, refuse
from .recorder import Recorder
from .values import Pointer, Value, meet

_CONSTANTS = (tl.dtype, tl.constexpr)


class Language:
    """Stands in for ``triton.language`` in a function that is recorded; masks are the backend's business."""

    static_range = staticmethod(range)
    constexpr = staticmethod(plain)

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __getattr__(self, name: str) -> Any:
        found = getattr(tl, name, None)
        if isinstance(found, _CONSTANTS):
            return found
        raise refuse(f"tl.{name}: cannot be recorded")

    def load(self, pointer: Pointer, mask: Any = None) -> Value:
        """One number where all lanes' pointers agree, else one per lane."""
        return self._recorder.load(pointer)

    def store(self, pointer: Pointer, value: Any, mask: Any = None) -> None:
        """Write each lane's number."""
        self._recorder.store(pointer, self._value(value, pointer.dtype))

    def fma(self, a: Any, b: Any, c: Any) -> Value:
        """a·b + c, rounded once."""
        x, y, z = self._alike(a, b, c)
        if x.dtype not in WIDE or not x.dtype == y.dtype == z.dtype:
            raise refuse(f"tl.fma of {x.dtype}, {y.dtype} and {z.dtype}: cannot be recorded")
        return self._recorder.apply("fma", (x, y, z), x.dtype)

    def div_rn(self, a: Any, b: Any) -> Value:
        """The correctly rounded quotient."""
        x, y = self._alike(a, b)
        if x.dtype not in WIDE or x.dtype != y.dtype:
            raise refuse(f"tl.div_rn of {x.dtype} and {y.dtype}: cannot be recorded")
        return self._recorder.apply("div", (x, y), x.dtype)

    tensor = object
    """Every row is a pointer, or an object that takes a column as one."""

    def div_by_scalar(self, x: Any, y: Any, corrected: bool, mode: int = 0) -> Value:
        """`arithmetic.div_by_scalar`: the quotient, however a GPU comes to it (`Recordable`)."""
        del corrected, mode
        return self.div_rn(x, y)

    def sqrt_rn(self, x: Value) -> Value:
        """The correctly rounded root."""
        return self._floating("sqrt", x)

    def abs(self, x: Any) -> Any:
        """The sign bit cleared."""
        return self._floating("abs", x) if isinstance(x, Value) else abs(plain(x))

    def _floating(self, name: str, x: Value) -> Value:
        if x.dtype not in WIDE:
            raise refuse(f"{name} of {x.dtype}: cannot be recorded")
        return self._recorder.apply(name, (x,), x.dtype)

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        """``a`` where the condition holds, else ``b``."""
        if not isinstance(condition, Value):
            return a if plain(condition) else b
        x, y = meet("tl.where", *self._alike(a, b))
        return self._recorder.apply("where", (condition, x, y), x.dtype)

    def full(self, shape: Any, value: Any, dtype: Any) -> Value:
        """A constant; every shape is all lanes."""
        return self._recorder.constant(plain(value), plain(dtype))

    def cast(self, x: Any, dtype: Any, bitcast: bool = False) -> Value:
        """Converted."""
        return self._value(x, dtype).to(dtype, bitcast=bitcast)

    def debug_barrier(self) -> None:
        """Orders a GPU's loads; nothing here."""

    def multiple_of(self, x: Any, values: Any) -> Any:
        """A hint to the compiler; nothing here."""
        return x

    def _value(self, x: Any, dtype: Any) -> Value:
        return x if isinstance(x, Value) else self._recorder.constant(plain(x), dtype)

    def _alike(self, *operands: Any) -> tuple[Value, ...]:
        """Plain numbers in the dtype of the values beside them; float32 or int32 if there is none, as in Triton."""
        like = next((x for x in operands if isinstance(x, Value)), None)
        if like is not None:
            return tuple(map(like.lift, operands))
        numbers = [plain(x) for x in operands]
        dtype = tl.float32 if any(isinstance(x, float) for x in numbers) else tl.int32
        return tuple(self._value(x, dtype) for x in numbers)


class _Module:
    """A module whose functions record; attributes are converted when they are asked for."""

    def __init__(self, module: types.ModuleType, convert: Callable[[Any], Any]) -> None:
        self._module = module
        self._convert = convert

    def __getattr__(self, name: str) -> Any:
        return self._convert(getattr(self._module, name))


class Recordable:
    """Makes functions that record of ``@triton.jit`` ones, their helpers and constants with them."""

    def __init__(self, recorder: Recorder) -> None:
        self._language = Language(recorder)
        # The one block that is another here, of the same value: a CPU divides in less time than the 11 operations take
        # that correct a product with the reciprocal (a step of Adam in bfloat16 by 15 %).
        self._done: dict[Any, Callable[..., Any]] = {arithmetic.div_by_scalar.fn: self._language.div_by_scalar}

    def __call__(self, function: Any) -> Callable[..., Any]:
        """The Python function behind ``function``, in which ``tl`` records.

        It takes `Value`, `Pointer`, tuples of them, plain numbers, dtypes and other such functions.
        """
        python = function.fn
        if python not in self._done:
            space: dict[str, Any] = {}
            bound = types.FunctionType(
                python.__code__,
                space,
                python.__name__,
                self._convert_all(python.__defaults__),
                python.__closure__,
            )
            bound.__kwdefaults__ = {k: self.convert(v) for k, v in (python.__kwdefaults__ or {}).items()}
            # Known before its helpers are looked at: they may call each other.
            self._done[python] = bound
            names = [name for code in _codes(python.__code__) for name in code.co_names]
            space.update({n: self.convert(python.__globals__[n]) for n in names if n in python.__globals__})
        return self._done[python]

    def _convert_all(self, values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        return None if values is None else tuple(map(self.convert, values))

    def convert(self, x: Any) -> Any:
        """What a recorded function sees in place of ``x``: a jit function, a module, a constexpr or anything else."""
        if x is tl or x is tl.core:
            return self._language
        if isinstance(x, tl.constexpr):
            return x.value
        if type(x).__name__ in ("JITFunction", "InterpretedFunction"):
            return self(x)
        if tl.core.is_builtin(x):
            return getattr(self._language, x.__name__)
        if isinstance(x, types.ModuleType):
            return _Module(x, self.convert)
        return x


def _codes(code: types.CodeType) -> list[types.CodeType]:
    """A function's code and that of what is defined inside it."""
    return [code, *(inner for x in code.co_consts if isinstance(x, types.CodeType) for inner in _codes(x))]


def record(recorder: Recorder, function: Any, *arguments: Any) -> Any:
    """Run a ``@triton.jit`` function once with recording values and return what it returns.

    Args:
        recorder: notes what happens.
        function: a ``@triton.jit`` function.
        arguments: by position; jit functions among them record too, dtypes and plain numbers stand for constexpr ones.
    """
    recordable = Recordable(recorder)
    return recordable(function)(*map(recordable.convert, arguments))
