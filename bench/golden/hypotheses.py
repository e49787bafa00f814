"""Claims about torch's CUDA arithmetic that only a GPU can settle, each tested against named hypotheses.

A check runs a torch operation on the device and compares its bits with candidate expressions computed exactly on the
CPU; the row says how many elements differ under each candidate, so that the right one shows itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from kernels import DTYPES

from ..conformance import bitwise
from ..tracebacks import kept_traceback

Tensor = torch.Tensor
_COUNT = 65_536


class Exact:
    """Float32 operations with one rounding each, on the CPU, and rounding to a storage dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def store(self, x: Tensor) -> Tensor:
        """Round to the storage dtype and widen again."""
        return x.to(self.dtype).float()

    @staticmethod
    def fma(a: Tensor | float, b: Tensor | float, c: Tensor) -> Tensor:
        """a·b + c with one rounding (addcmul with value 1 is a hardware fma on AVX2 and later)."""
        wide = [torch.as_tensor(x, dtype=torch.float32).expand_as(c).contiguous() for x in (a, b)]
        return torch.addcmul(c, wide[0], wide[1])

    @staticmethod
    def sqrt(x: Tensor) -> Tensor:
        """Correctly rounded root (the float32 one of the vector library is not)."""
        return x.double().sqrt().float()


def fma_is_exact() -> bool:
    """Whether addcmul fuses here; without it these checks cannot speak."""
    a = torch.full((64,), 1 + 2.0**-12)
    return bool((Exact.fma(a, a, torch.full((64,), -1.0)) == 2.0**-11 + 2.0**-24).all())


def _draw(seed: int, dtype: torch.dtype, *, positive: bool = False) -> Tensor:
    values = np.random.default_rng(seed).standard_normal(_COUNT) * 1.5
    return torch.from_numpy(np.abs(values) + 1e-3 if positive else values).to(dtype)


def _row(check: str, dtype: str, got: Tensor, candidates: dict[str, Tensor]) -> dict[str, Any]:
    found = got.float().cpu()
    counts = {name: int(bitwise.unequal(value, found).sum()) for name, value in candidates.items()}
    exact = [name for name, count in counts.items() if not count]
    return {"check": check, "dtype": dtype, "elements": found.numel(), "differing": counts, "holds": exact}


def _operations(name: str, device: torch.device) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    dtype, ex = DTYPES[name].torch, Exact(DTYPES[name].torch)
    x, a, b = (_draw(seed, dtype) for seed in (1, 2, 3))
    b = torch.where(b == 0, torch.ones_like(b), b)
    xd, ad, bd = x.to(device), a.to(device), b.to(device)
    x, a, b = x.float(), a.float(), b.float()
    f = np.float32
    s = 0.0316069770620507  # sqrt(1 - 0.999) and the like: a double that float32 cannot hold

    def row(check: str, got: Tensor, **candidates: Tensor) -> dict[str, Any]:
        return _row(check, name, got, {key: ex.store(value) for key, value in candidates.items()})

    quotient = {"true_division": x / float(f(s)), "double_reciprocal": x * float(f(1.0 / s))}
    quotient["float_reciprocal"] = x * float(f(1.0) / f(s))
    yield "tensor / float", lambda: row("tensor / float", xd / s, **quotient)
    yield (
        "_foreach_div ScalarList",
        lambda: row("_foreach_div ScalarList", torch._foreach_div([xd], [s])[0], **quotient),
    )
    yield "_foreach_div Scalar", lambda: row("_foreach_div Scalar", torch._foreach_div([xd], s)[0], **quotient)
    yield "tensor / tensor", lambda: row("tensor / tensor", xd / bd, true_division=x / b)
    yield "mul", lambda: row("mul", xd * s, one_rounding=x * float(f(s)))
    yield "add alpha", lambda: row("add alpha", xd.add(ad, alpha=s), fma=ex.fma(a, s, x), two=x + a * float(f(s)))
    for w in (0.1, 0.5, 0.6):
        near, far = ex.fma(a - x, w, x), ex.fma(-(1 - torch.tensor(w)), a - x, a)
        yield f"lerp {w}", lambda w=w, n=near, r=far: row(f"lerp {w}", xd.lerp(ad, w), from_start=n, from_end=r)  # type: ignore[misc]
    for value in (0.001, 1.0):
        fused, rounded = ex.fma(a * float(f(value)), b, x), ex.fma(a * b, value, x)
        yield (
            f"addcmul {value}",
            lambda v=value, p=rounded, q=fused: row(  # type: ignore[misc]
                f"addcmul {v}", xd.addcmul(ad, bd, value=v), product_rounded=p, fused=q
            ),
        )
        yield (
            f"addcdiv {value}",
            lambda v=value: row(  # type: ignore[misc]
                f"addcdiv {v}", xd.addcdiv(ad, bd, value=v), fma=ex.fma(a / b, v, x), scaled=x + a * float(f(v)) / b
            ),
        )
    yield "sqrt", lambda: row("sqrt", xd.abs().sqrt(), correctly_rounded=ex.sqrt(x.abs()))
    yield "neg", lambda: row("neg", -xd, sign_flip=x * -1.0)


def _capturable(recipe: str, name: str, device: torch.device) -> dict[str, Any]:
    """One capturable Adam step, against the recipe with the 0-dim float32 factors kept or cast to the dtype first."""
    dtype, ex = DTYPES[name].torch, Exact(DTYPES[name].torch)
    lr, betas, eps = 0.01, (0.9, 0.999), 1e-8
    p0, g = _draw(11, dtype), _draw(12, dtype)
    param = p0.to(device, copy=True).requires_grad_()
    param.grad = g.to(device)
    optimizer = torch.optim.Adam([param], lr=lr, betas=betas, eps=eps, capturable=True, foreach=recipe == "foreach")
    optimizer.step()
    state = optimizer.state[param]
    m, v = state["exp_avg"].float().cpu(), state["exp_avg_sq"].float().cpu()
    one = torch.ones(())
    power1, power2 = (torch.tensor(beta) ** one for beta in betas)  # step 1: powf is exact
    candidates = {}
    for label, cast in (("factors_in_float32", lambda t: t), ("factors_cast_to_dtype", ex.store)):
        d = ex.store(ex.sqrt(v))
        if recipe == "foreach":
            a = 1 / ((power1 - 1) * float(np.float32(1.0 / lr)))
            c = ex.sqrt(-(power2 - 1))
            d = ex.store(d / cast(c))
            d = ex.store(ex.store(d + eps) / cast(a))
        else:
            size = -((1 / (1 - power1)) * lr)
            d = ex.store(d / cast(ex.sqrt(1 - power2) * size))
            d = ex.store(d + cast((1 / size) * eps))
        candidates[label] = ex.store(p0.float() + m / d)
    return _row(f"capturable Adam {recipe}", name, param.detach(), candidates)


def run(device: torch.device) -> Iterator[dict[str, Any]]:
    """Every check, one row each; a check that fails to run is a row with its traceback."""
    if not fma_is_exact():
        yield {"check": "fma on this CPU", "outcome": "error", "detail": "addcmul does not fuse here; nothing compared"}
        return
    checks: list[tuple[str, str, Callable[[], dict[str, Any]]]] = []
    for name in DTYPES:
        checks += [(label, name, check) for label, check in _operations(name, device)]
        for recipe in ("foreach", "for-loop"):
            checks.append((f"capturable {recipe}", name, lambda r=recipe, n=name: _capturable(r, n, device)))  # type: ignore[misc]
    for label, name, check in checks:
        try:
            yield check()
        except Exception:
            yield {"check": label, "dtype": name, "outcome": "error", "detail": kept_traceback(most=1200)}
