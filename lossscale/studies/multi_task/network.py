"""Two heads on one trunk, and the article's one output under two losses, in batched form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from ...models.data import Batch, uniforms

_WIDTH: Final = 6
TRUNK: Final = slice(0, _WIDTH * _WIDTH + _WIDTH)
"""Columns of the trunk's weight and bias."""
FIRST: Final = slice(TRUNK.stop, TRUNK.stop + _WIDTH + 1)
SECOND: Final = slice(FIRST.stop, FIRST.stop + _WIDTH + 1)
"""Columns of each head's weight and bias."""


@dataclass(frozen=True, kw_only=True)
class TwoLosses:
    """The input squared, Linear, ReLU, and a head of Linear, sigmoid, exp for each of two losses.

    The losses are the article's, label − out and label + out, each times its own weight.

    Attributes:
        frozen: whether the trunk's gradient is 0.
        one_output: whether both losses have the first head's output, as in the article's second script.
    """

    frozen: bool = False
    one_output: bool = False

    @property
    def parameters(self) -> int:
        """n, of one model; a second head is there even where it gets no gradient."""
        return SECOND.stop

    def initial(self, seed: int, inits: Sequence[int]) -> Tensor:
        """[inits, n] float32, uniform within ±1/√6 as ``torch.nn.Linear`` draws."""
        bound = 1.0 / math.sqrt(_WIDTH)
        drawn = uniforms(seed, "two-heads/initial", inits, self.parameters).astype(np.float64)
        return torch.from_numpy((drawn * (2 * bound) - bound).astype(np.float32))

    def gradients(self, params: Tensor, batch: Batch, loss_scale: Tensor, out: Tensor) -> None:
        """Writes [models, n].

        Args:
            params: [models, n], the models of one initialisation next to each other.
            batch: one sample per initialisation.
            loss_scale: [models, 2], the weights of the two losses.
            out: overwritten.
        """
        inputs = batch.inputs.squeeze(2).repeat_interleave(len(params) // len(batch.inputs), 0)
        squared = inputs * inputs
        weight = params[:, : _WIDTH * _WIDTH].reshape(-1, _WIDTH, _WIDTH)
        hidden = ((weight * squared.unsqueeze(1)).sum(2) + params[:, _WIDTH * _WIDTH : TRUNK.stop]).relu()
        upstream = torch.zeros_like(hidden)
        out.zero_()
        for place, sign in enumerate((-1.0, 1.0)):
            head = FIRST if self.one_output or place == 0 else SECOND
            own, bias = params[:, head.start : head.stop - 1], params[:, head.stop - 1 : head.stop]
            squashed = torch.sigmoid((own * hidden).sum(1, keepdim=True) + bias)
            toward = sign * loss_scale[:, place : place + 1] * (squashed.exp() * (1 - squashed) * squashed)
            out[:, head.start : head.stop - 1] += toward * hidden
            out[:, head.stop - 1 : head.stop] += toward
            upstream += toward * own
        if not self.frozen:
            below = torch.where(hidden > 0, upstream, 0.0)
            out[:, : _WIDTH * _WIDTH] = (below.unsqueeze(2) * squared.unsqueeze(1)).reshape(len(params), -1)
            out[:, _WIDTH * _WIDTH : TRUNK.stop] = below
