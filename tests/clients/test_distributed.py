"""FSDP2 and distributed checkpoints of torch itself: two processes on the CPU, talking by gloo, run `ranks.py`."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("ranks.py")
ROOT = PROGRAM.parents[2]


@pytest.mark.parametrize(("name", "precision"), [("SGD", "float32"), ("AdamW", "float32"), ("AdamW", "bf16")])
def test_fsdp2_and_distributed_checkpoints(client: Any, tmp_path: Path, name: str, precision: str) -> None:
    # torch is always there; this runs with the other clients.
    pytest.importorskip("accelerate", reason="see make test-clients")
    client(
        "torch",
        f"FSDP2 on two processes (gloo), {precision}, clipping, accumulation 2, ExponentialLR, distributed checkpoint",
        name,
    )
    path = os.pathsep.join(map(str, (ROOT, PROGRAM.parent)))
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", str(PROGRAM), str(tmp_path), str(rank), name, precision],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [rank.communicate(timeout=300)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(errors)
