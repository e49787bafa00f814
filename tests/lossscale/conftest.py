"""Made-up pairs in the schema of a run, for tests of what is computed from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.lossscale.summaries import PairMaker


@dataclass(frozen=True, kw_only=True)
class CellKey:
    network: str = "mlp-6-6-1"
    optimizer: str = "adam"
    options: str = ""
    recipe: str = "foreach"
    policy: str = "fp32"


@pytest.fixture
def make_pairs() -> PairMaker:
    """``make_pairs(arm, against, scale, **columns)``: moved, identical and finite unless told otherwise."""

    def make(arm: str, against: str, scale: float, *, step: int = 1, inits: int = 8, **columns: Any) -> pd.DataFrame:
        defaults: dict[str, Any] = {
            "arm": arm,
            "against": against,
            "scale": scale,
            "step": np.int32(step),
            "params": 49,
            "identical": True,
            "differing_bits": 0,
            "max_ulp": 0,
            "rel_distance": 0.0,
            "size_ratio": 1.0,
            "moved": 0.01,
            "update_norm_ratio": 1.0,
            "predicted_update_norm_ratio": np.nan,
            "update_norm_ratio_tolerance": np.nan,
            **{f"eps_over_r_{quantile}": 1e-6 for quantile in ("q05", "q25", "q50", "q75", "q95")},
            "v_zero_share": 0.25,
            "loss_arm": 0.5,
            "loss_against": 0.5,
            "smallest_grad": 1e-6,
            "nonfinite": 0,
            "state_identical": True,
            "state_subnormal": 0,
        }
        table = pd.DataFrame({"init": np.arange(inits), **defaults, **columns})
        return table.assign(arm=table["arm"].astype("category"), against=table["against"].astype("category"))

    return make


@pytest.fixture
def cell_key() -> type[CellKey]:
    return CellKey
