"""Made-up pairs in the schema of a run, for tests of what is computed from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lossscale.analysis.summarize import summarize
from lossscale.runs import records
from lossscale.runs.summary import summary_text
from lossscale.studies.loss_vs_lr import STUDY
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


@pytest.fixture
def make_run(make_pairs: PairMaker, cell_key: Any, tmp_path: Path) -> Callable[..., Path]:
    """``make_run(mapped_identical=True)``: a finished run of a small part of the default study."""

    def make(*, mapped_identical: bool = True, name: str = "run") -> Path:
        parts = []
        for network, optimizer, options in (
            ("mlp-6-6-1", "sgd", ""),
            ("mlp-6-6-1", "adam", ""),
            ("mlp-6-6-1", "adam", "eps=0.001"),
        ):
            frames = [
                make_pairs("null", "base", 1.0),
                make_pairs("ulp", "base", 1.0, identical=False, rel_distance=1e-7),
            ]
            for scale in (1e-4, 0.5, 2.0, 1e4):
                exact = scale in (0.5, 2.0)
                ratio = (
                    {}
                    if optimizer == "sgd"
                    else {"predicted_update_norm_ratio": 1.0, "update_norm_ratio_tolerance": 1e-6}
                )
                frames += [
                    make_pairs("loss", "base", scale, identical=False, rel_distance=1e-3, **ratio),
                    make_pairs("lr", "base", scale, identical=False, rel_distance=0.5),
                    make_pairs(
                        "loss", "lr", scale, identical=optimizer == "sgd" and exact, rel_distance=0.0 if exact else 1e-7
                    ),
                    make_pairs(
                        "mapped",
                        "base",
                        scale,
                        identical=exact and mapped_identical,
                        rel_distance=0.0 if exact else 1e-7,
                    ),
                ]
            parts.append(
                (cell_key(network=network, optimizer=optimizer, options=options), pd.concat(frames, ignore_index=True))
            )
        run = tmp_path / name
        run.mkdir()
        manifest = records.Manifest(
            study="loss-vs-lr",
            seed=7,
            spec=None,
            options={},
            provenance={"packages": {"torch": "2.x <test>"}},
            resume_key={},
            finished=True,
        )
        records.write_manifest(run, manifest)
        (run / "summary.csv").write_text(summary_text(summarize(parts, "loss-vs-lr", STUDY.predictions)))
        return run

    return make


@pytest.fixture(scope="session")
def clip_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quick run of the script `clip`, with its page."""
    from lossscale.__main__ import main

    run = tmp_path_factory.mktemp("runs") / "clip"
    assert main(["run", "clip", "--quick", "--out", str(run)]) == 0
    return run
