"""Dropout whose masks belong to a model's initialisation and step, as all of its data do.

torch draws one mask from one generator for everything that runs together. Here the members of a family must drop the
same elements, whoever else trains in the same call, so the masks are words of `data.words`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from .data import uniforms


class Dropout(nn.Module):
    """Multiplies by the masks that it was given for this forward pass, one per use.

    Attributes:
        p: probability of a zero.
        shapes: of its inputs in the order of their use, once `recorded`.
        masks: of this pass: 0 or 1 / (1 - p), in the order of their use.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.shapes: list[torch.Size] = []
        self.masks: Sequence[Tensor] | None = None
        self._used = 0

    def begin(self, masks: Sequence[Tensor] | None) -> None:
        """The masks of the next pass; None to write down the shapes that it would need."""
        self.masks, self._used = masks, 0
        if masks is None:
            self.shapes = []

    def forward(self, x: Tensor) -> Tensor:
        """X · mask."""
        if self.masks is None:
            self.shapes.append(x.shape)
            return x
        self._used += 1
        return x * self.masks[self._used - 1]


def seeded(module: nn.Module) -> dict[str, Dropout]:
    """Puts a `Dropout` in the place of every ``nn.Dropout`` with p > 0, and returns them by name.

    Raises:
        ValueError: for a module that drops otherwise.
    """
    found: dict[str, Dropout] = {}
    made: dict[nn.Module, Dropout] = {}
    for name, child in [*module.named_modules(remove_duplicate=False)]:
        if not isinstance(child, _DropoutNd) or child.p == 0:
            continue
        if type(child) is not nn.Dropout or not name:
            raise ValueError(
                f"its {name or 'root'} is a {type(child).__name__}, whose masks cannot be drawn per model; use "
                "nn.Dropout inside it"
            )
        if child not in made:
            found[name] = made[child] = Dropout(child.p)
        module.set_submodule(name, made[child])
    return found


class Masks:
    """The masks of several families, step by step.

    Args:
        dropouts: by name, with the shapes of a single model's pass.
        seed: of the run.
        inits: of the families.
        dtype: that the masks are multiplied in.
        device: where they are wanted.
    """

    def __init__(
        self,
        dropouts: Mapping[str, Dropout],
        *,
        seed: int,
        inits: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._dropouts = dropouts
        self._seed = seed
        self._inits = tuple(inits)
        self._dtype = dtype
        self._device = device

    def of(self, step: int) -> dict[str, tuple[Tensor, ...]]:
        """By name, and for every use [families, …]."""
        masks = {}
        for name, dropout in self._dropouts.items():
            sizes = [shape.numel() for shape in dropout.shapes]
            drawn = torch.from_numpy(uniforms(self._seed, f"dropout/{name}", self._inits, sum(sizes), step))
            kept = (drawn >= dropout.p).to(torch.float32) / (1.0 - dropout.p) if dropout.p < 1 else drawn * 0
            parts = kept.to(self._device, self._dtype).split(sizes, 1)  # type: ignore[no-untyped-call]
            masks[name] = tuple(
                part.reshape(len(self._inits), *shape) for part, shape in zip(parts, dropout.shapes, strict=True)
            )
        return masks
