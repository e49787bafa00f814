"""Why width scales eps: networks whose output is a mean over their units have gradients that shrink with the width.

To eps that is a scaled loss. Exactly so where the wide network is the narrow one with every unit c times over: all its
gradients are 1/c of the narrow one's, and with eps / c every copy trains as the unit that it copies.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from kernels import Population, bits, get_algorithm

from ...analysis.judging import Lines
from ...analysis.measured import Measured
from ...design.study import StudyContext
from ...diagnose.steps import root
from . import COPIES, COPIES_LEFT, SHRINK, WIDTH_LEFT, WIDTH_MAPPED

NARROW: Final = 16
WIDTHS: Final = (16, 64, 256)
FEATURES: Final = 6
_NUMBERS: Final = FEATURES + 2
"""Of a unit: its weights, its bias, and its weight in the mean."""
_SAMPLES: Final = 4
_STEPS: Final = 100
_LR: Final = 0.01
_EPS_OVER_RMS: Final = 0.25
"""eps at the narrow width, over the RMS of the gradients of its first step."""


def drawn(generator: torch.Generator, networks: int, units: int) -> Tensor:
    """[networks, 1, units, numbers]: weights N(0, 1/6), biases 0, output weights N(0, 1)."""
    params = torch.randn(networks, 1, units, _NUMBERS, generator=generator)
    params[..., :FEATURES] /= FEATURES**0.5
    params[..., FEATURES] = 0.0
    return params


def gradients(params: Tensor, inputs: Tensor) -> Tensor:
    """Of ½ (mean over units of a · relu(w·x + b) − target)², a mean over samples; target 1 + x₁ · x₂.

    Sums over copies are sums of equal numbers in pairs, so they are exact, and every other sum has one order whatever
    the number of copies: a network of copies has the bits of the one that it copies.

    Args:
        params: [networks, copies, units, numbers], the copies a power of two.
        inputs: [networks, samples, features].

    Returns:
        As ``params``.
    """
    copies, units = params.shape[1:3]
    weights, bias, out = params[..., :FEATURES], params[..., FEATURES], params[..., -1]
    grads = torch.zeros_like(params)
    for sample in range(inputs.shape[1]):
        x = inputs[:, sample, None, None, :]
        before = bias
        for feature in range(FEATURES):
            before = before + weights[..., feature] * x[..., feature]
        hidden = before.relu()
        each = out * hidden
        while each.shape[1] > 1:
            each = each[:, ::2] + each[:, 1::2]
        mean = each[:, 0].contiguous().sum(1) / (copies * units)
        target = 1.0 + x[:, 0, 0, 0] * x[:, 0, 0, 1]
        error = ((mean - target) / (inputs.shape[1] * copies * units))[:, None, None]
        back = error * out * (before > 0)
        grads[..., :FEATURES] += back.unsqueeze(-1) * x
        grads[..., FEATURES] += back
        grads[..., -1] += error * hidden
    return grads


class Wide:
    """Networks of one shape under Adam, from the same start and on the same data for every number of copies.

    Args:
        context: of the script.
        networks: how many.
        units: of each, before they are copied.
        copies: of every unit.
        eps: Adam's.
    """

    def __init__(self, context: StudyContext, networks: int, units: int, copies: int, eps: float) -> None:
        generator = torch.Generator().manual_seed(context.seed)
        start = drawn(generator, networks, units).expand(-1, copies, -1, -1)
        self._shape = start.shape
        self._data = torch.Generator().manual_seed(context.seed + 1)
        self._algorithm = get_algorithm("adam")
        self._hyper = self._algorithm.hyperparameters(lr=_LR, eps=eps)
        params = start.reshape(networks, -1).to(context.device)
        self._population = Population("adam", [self._hyper] * networks, params, backend=context.backend)
        self.grads = torch.zeros_like(params)

    @property
    def params(self) -> Tensor:
        """[networks, copies, units, numbers] on the CPU."""
        return self._population.params.view(self._shape).cpu()

    def advance(self, steps: int) -> None:
        """Train; ``grads`` are those of the last step."""
        for _ in range(steps):
            inputs = 2.0 * torch.rand(self._shape[0], _SAMPLES, FEATURES, generator=self._data) - 1.0
            params = self._population.params
            self.grads = gradients(params.view(self._shape), inputs.to(params.device)).reshape(params.shape)
            self._population.step(self.grads)

    def eps_share(self) -> Tensor:
        """[networks] float64: ρ = Σ|u| · eps/(r + eps) / Σ|u| of the last step."""
        state = self._population.state
        r = root(self._algorithm, state, self._hyper, self._population.step_count)
        assert r is not None, "Adam divides by a root"
        r, eps = r.double(), self._hyper.eps
        update = state["exp_avg"].double().abs() / (r + eps)
        share: Tensor = (update * (eps / (r + eps))).sum(1) / update.sum(1)
        return share.cpu()


def judge_widths(lines: Lines, context: StudyContext) -> None:
    """Copies bit for bit, and a sweep of widths."""
    networks = 128 if context.quick else 1024
    first = Wide(context, networks, NARROW, 1, 1.0)
    first.advance(1)
    eps = _EPS_OVER_RMS * _rms(first)
    _judge_copies(lines, context, networks, eps)
    _judge_sweep(lines, context, networks, eps)


def _rms(wide: Wide) -> float:
    return float(wide.grads.double().square().mean().sqrt())


def _judge_copies(lines: Lines, context: StudyContext, networks: int, eps: float) -> None:
    narrow = Wide(context, networks, NARROW, 1, eps)
    begun = narrow.params.clone()
    narrow.advance(_STEPS)
    still = "" if bool((narrow.params != begun).any()) else "no network moved"
    for copies in (4, 16):
        for arm, own, claim in (("eps / c", eps / copies, COPIES), ("eps left alone", eps, COPIES_LEFT)):
            wide = Wide(context, networks, NARROW, copies, own)
            wide.advance(_STEPS)
            same = ~bits.mismatch_mask(wide.params, narrow.params.expand_as(wide.params)).flatten(1).any(1)
            share = Measured.share(int(same.sum()), networks)
            cell = _cell(NARROW * copies, arm, _STEPS) | {"against": f"width {NARROW}", "scale": 1 / copies}
            lines.add("identical_share", share, claim, reason=still, **cell)


def _judge_sweep(lines: Lines, context: StudyContext, networks: int, eps: float) -> None:
    """Widths of networks drawn by themselves, with eps × 16/width and with eps left alone."""
    narrow: dict[int, Measured] = {}
    sizes = []
    for width in WIDTHS:
        arms = (("eps × 16/width", NARROW / width), ("eps left alone", 1.0))
        for arm, factor in arms if width > NARROW else arms[:1]:
            wide = Wide(context, networks, width, 1, eps * factor)
            for step in (1, _STEPS):
                wide.advance(step if step == 1 else _STEPS - 1)
                if step == 1 and arm != "eps left alone":
                    sizes.append(_rms(wide))
                share = Measured.median(wide.eps_share().numpy())
                cell = _cell(width, arm, step) | {"scale": NARROW / width}
                if width == NARROW:
                    narrow[step] = share
                    lines.add("eps_share", share, **cell)
                elif arm == "eps left alone":
                    last = width == WIDTHS[-1]
                    lines.add("eps_share", share, WIDTH_LEFT if last else None, **cell)
                else:
                    lines.add("eps_share", share, **cell)
                    lines.add("eps_share_over_narrow", share.over(narrow[step].value), WIDTH_MAPPED, **cell)
    slope = torch.tensor([sizes[-1] / sizes[0], WIDTHS[-1] / WIDTHS[0]]).log2()
    cell = _cell(WIDTHS[-1], "base", 1) | {"against": f"width {NARROW}"}
    lines.add("log2_rms_over_log2_width", Measured(value=float(slope[0] / slope[1]), count=networks), SHRINK, **cell)


def _cell(width: int, arm: str, step: int) -> dict[str, Any]:
    return {"network": f"mean of {width} units", "optimizer": "adam", "recipe": "foreach", "arm": arm, "step": step}
