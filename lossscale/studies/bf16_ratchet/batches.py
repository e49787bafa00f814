"""Small batches and the ratchet: a rule that keeps the memory of v in samples pushes beta2 over the format's border."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from ...analysis.judging import Lines
from ...analysis.measured import Measured
from ...design.study import StudyContext
from ...engines.populations import BF16, BF16_STATE, FP32
from . import BATCH, BATCH_RESETS
from .averages import Gradients, Storage, simulate

STEPS: Final = 20_000
FOLLOWS: Final = 4.0
"""A v of up to so many times float32's has followed gradients whose squares fell to a hundredth."""

CUTS: Final = {0.95: (1, 2, 4, 8, 16, 32), 0.99: (1, 2, 4, 8)}
"""By beta2 of the whole batch: into how many parts it is cut."""
EXPECTED: Final = {0.95: 16, 0.99: 4}
"""The first cut whose beta2 lies above 1 − 2^−8, where a bfloat16 v sticks inside a binade."""

_REFERENCE: Final = Storage(arithmetic=FP32, roundings=0)
_PLAIN: Final = (Storage(arithmetic=BF16_STATE, roundings=1), Storage(arithmetic=BF16, roundings=2))
_RESETS: Final = (
    Storage(arithmetic=BF16_STATE, roundings=1, reset_every=1000),
    Storage(arithmetic=BF16, roundings=2, reset_every=1000),
)


def cut(beta2: float, parts: int) -> Gradients:
    """The gradients of a part of the batch: √parts times as noisy, averaged over as many samples as before.

    They fall to a tenth, as `averages.FALL_AT` says.
    """
    return Gradients(
        name=f"batch / {parts}, falling to a tenth", beta2=beta2 ** (1 / parts), sigma=math.sqrt(parts), falls_to=0.1
    )


def judge_batches(lines: Lines, context: StudyContext, steps: int) -> None:
    """Nothing of a run that ends before every v has had time to forget."""
    if steps < STEPS:
        return
    keys = [(beta2, parts) for beta2, cuts in CUTS.items() for parts in cuts]
    rows, storages = [cut(*key) for key in keys], (_REFERENCE, *_PLAIN, *_RESETS)
    (now,) = simulate(context, rows, storages, elements=1_024, checkpoints=[STEPS])
    for storage in storages[1:]:
        ratios = {key: now.v_ratio(storage, place, _REFERENCE) for place, key in enumerate(keys)}
        for beta2, cuts in CUTS.items():
            lost = [parts for parts in cuts if np.median(ratios[beta2, parts]) > FOLLOWS]
            for parts in cuts:
                cell = _cell(storage, cut(beta2, parts))
                ratio = Measured.median(np.log2(ratios[beta2, parts]))
                judged = storage in _RESETS and parts >= EXPECTED[beta2]
                lines.add("log2_v_ratio", ratio, BATCH_RESETS if judged else None, **cell)
            if storage in _PLAIN:
                first = Measured(value=min(lost, default=math.nan), count=1_024)
                cell = _cell(storage, cut(beta2, 1)) | {"options": f"beta2={beta2:g} of the whole batch"}
                lines.add("first_cut_that_v_does_not_follow", first, BATCH, predicted=EXPECTED[beta2], **cell)


def _cell(storage: Storage, row: Gradients) -> dict[str, Any]:
    return {**storage.arithmetic.cell, **row.cell, "arm": storage.arm, "against": _REFERENCE.arm, "step": STEPS}
