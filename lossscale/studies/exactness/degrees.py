"""Two lines of the degree table that need a comparison of their own: SGD's decay, and an eps inside the root."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from kernels import Trainer, bits, get_algorithm

from ...analysis.judging import Lines
from ...analysis.measured import Measured
from ...design.study import StudyContext
from ...engines.trainer import samples
from ...models.networks import get_network
from . import DECAY_LEFT, DECAY_MAPPED, INSIDE, NEAR

_STEPS: Final = 100
_SCALES: Final = (2.0**-4, 2.0**4)
_DECAY: Final = 0.01
_ELEMENTS: Final = 4096


def judge_decay(lines: Lines, context: StudyContext) -> None:
    """SGD with L2 decay: loss × s beside lr × s, with the decay left alone and with it mapped."""
    network, inits = get_network("mlp-6-6-1"), range(128 if context.quick else 1024)
    make = get_algorithm("sgd").hyperparameters
    for scale in _SCALES:
        of_lr = make(lr=0.01 * scale, weight_decay=_DECAY)
        left, mapped = (make(lr=0.01, weight_decay=decay) for decay in (_DECAY, _DECAY * scale))
        drawn = network.initial(context.seed, inits)
        params = drawn.repeat_interleave(3, 0).to(context.device)
        trainer = Trainer(
            "sgd",
            [of_lr, left, mapped],
            params,
            network=network.name,
            backend=context.backend,
            loss_scale=[1.0, scale, scale],
        )
        stream = network.stream(seed=context.seed, inits=inits, device=torch.device(context.device))
        trainer.run(samples(stream, range(1, _STEPS + 1)))
        arms = [params[place::3].cpu() for place in range(3)]
        still = "" if bool((arms[0] != drawn).any(1).double().mean() > 0.5) else "the median model never moved"
        cell: dict[str, Any] = {
            **{"network": network.name, "optimizer": "sgd", "options": f"weight_decay={_DECAY:g}"},
            **{"against": "lr", "scale": scale, "step": _STEPS},
        }
        for arm, name, claim in ((1, "loss", DECAY_LEFT), (2, "loss, decay mapped", DECAY_MAPPED)):
            same = ~bits.mismatch_mask(arms[arm], arms[0]).any(1)
            share = Measured.share(int(same.sum()), len(same))
            lines.add("identical_share", share, claim, reason=still, arm=name, **cell)


def judge_inside(lines: Lines, context: StudyContext) -> None:
    """Adam's step with eps inside the root, as optax's eps_root and TensorFlow's RMSprop have it."""
    for power, claim in ((2, INSIDE), (1, None)):
        for scale in NEAR:
            differ = inside_root(context.seed, scale, scale**power)
            cell: dict[str, Any] = {
                **{"optimizer": "adam", "options": "eps inside the root", "arm": f"eps × s^{power}"},
                **{"against": "base", "scale": scale, "step": _STEPS},
            }
            counted = Measured(value=int(differ.sum()), count=len(differ))
            lines.add("elements_that_differ", counted, claim, **cell)


def inside_root(seed: int, scale: float, eps_factor: float) -> Tensor:
    """[elements] bool: whether m / √(v + eps) ever differs when gradients are multiplied by scale, and eps by a factor.

    Moments are Adam's (.9, .999) in float32 over `_STEPS` gradients N(0, 1e-4²); eps is their variance.
    """
    generator = torch.Generator().manual_seed(seed)
    factors, eps = torch.tensor([[1.0], [scale]]), torch.tensor([[1e-8], [1e-8]]) * torch.tensor([[1.0], [eps_factor]])
    m, v = torch.zeros(2, _ELEMENTS), torch.zeros(2, _ELEMENTS)
    differ = torch.zeros(_ELEMENTS, dtype=torch.bool)
    for _ in range(_STEPS):
        grads = torch.randn(_ELEMENTS, generator=generator) * 1e-4 * factors
        m = m * 0.9 + grads * 0.1
        v = v * 0.999 + grads * grads * 0.001
        step = m / (v + eps).sqrt()
        differ |= bits.mismatch_mask(step[0], step[1])
    return differ


def judge_degrees(lines: Lines, context: StudyContext) -> None:
    """All of them."""
    judge_decay(lines, context)
    judge_inside(lines, context)
