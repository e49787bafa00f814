"""Where each model of a population lies while it trains: blocks of models whose rows are padded to a power of two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Slots of a launch, a whole number of blocks; slots without a model repeat one, and nobody reads them.

    Attributes:
        model_of: int64 [slots], the model whose numbers a slot holds.
        slot_of: int64 [models].
        listed: int32 [slots], `model_of`, and -1 - m where model m has another slot.
        shared: whether all slots of a block have the same hyperparameters.
    """

    model_of: Tensor
    slot_of: Tensor
    listed: Tensor
    shared: bool

    def gather(self, rows: Tensor) -> Tensor:
        """float32 [slots, n]: each slot's row of [models, n]."""
        return rows[self.model_of].float()

    def scatter(self, packed: Tensor, rows: Tensor) -> None:
        """The models' rows back from their slots, in ``rows``' dtype."""
        rows.copy_(packed[self.slot_of, : rows.shape[1]])


def place(record_of: np.ndarray, block: int, device: torch.device) -> Placement:
    """Models with the same record next to each other, every record starting a block: then its scalars are loaded once.

    Where that would leave more than half of the slots empty (nearly every model has a record of its own) the models
    keep their order.

    Args:
        record_of: int [models], which record each model has.
        block: models per program.
        device: of the population.
    """
    models = len(record_of)
    order = np.argsort(record_of, kind="stable")
    counts = np.bincount(record_of)
    padded = -(-counts // block) * block
    slots = int(padded.sum())
    shared = slots <= 2 * max(models, block)
    if shared:
        ends = np.cumsum(padded)
        starts = ends - padded
        # A record's slots beyond its models repeat its first.
        model_of = np.repeat(order[np.minimum(np.cumsum(counts) - counts, models - 1)], padded)
        slot_of = np.empty(models, np.int64)
        within = np.arange(models) - np.repeat(np.cumsum(counts) - counts, counts)
        slot_of[order] = np.repeat(starts, counts) + within
        model_of[slot_of] = np.arange(models)
    else:
        slots = -(-models // block) * block
        model_of = np.minimum(np.arange(slots), models - 1)
        slot_of = np.arange(models)
    return _placed(model_of, slot_of, device, shared=shared)


def by_arm(models: int, arms: int, block: int, device: torch.device) -> Placement:
    """Models with records of their own, the families' first arms first: a block's models then see as many samples.

    So the blocks of all arms share samples, each of which lies once in memory.

    Args:
        models: how many.
        arms: models of a family, which are next to each other.
        block: models per program.
        device: of the population.
    """
    order = np.arange(models).reshape(-1, arms).T.reshape(-1)
    slot_of = np.empty(models, np.int64)
    slot_of[order] = np.arange(models)
    model_of = order[np.minimum(np.arange(-(-models // block) * block), models - 1)]
    return _placed(model_of, slot_of, device, shared=False)


def _placed(model_of: np.ndarray, slot_of: np.ndarray, device: torch.device, *, shared: bool) -> Placement:
    elsewhere = slot_of[model_of] != np.arange(len(model_of))
    listed = np.where(elsewhere, -1 - model_of, model_of).astype(np.int32)
    on_device = [torch.from_numpy(array).to(device) for array in (model_of, slot_of, listed)]
    return Placement(model_of=on_device[0], slot_of=on_device[1], listed=on_device[2], shared=shared)
