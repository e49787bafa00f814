"""accelerate: accumulation, clipping, a scheduler and mixed precision; save_state and load_state cross both ways."""

from pathlib import Path
from typing import Any

import pytest
import torch
from training import batches, check_both_ways, loss_of, network, optimizer

CASES = [("SGD", "no"), ("AdamW", "no"), ("AdamW", "bf16")]


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_accumulation_and_saved_states(client: Any, tmp_path: Path, name: str, precision: str) -> None:
    used = f"accumulation 2, clipping, OneCycleLR, mixed_precision={precision}, save_state and load_state"
    client("accelerate", used, name)
    from accelerate import Accelerator

    def run(whose: str, first: int, last: int) -> list[torch.Tensor]:
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2, mixed_precision=precision)
        model = network()
        made = optimizer(whose, name, model.parameters())
        schedule = torch.optim.lr_scheduler.OneCycleLR(made, 0.05, total_steps=8)
        model, made, schedule = accelerator.prepare(model, made, schedule)
        if first:
            accelerator.load_state(str(tmp_path / f"at{first}"))
        for x in batches(16)[2 * first : 2 * last]:
            with accelerator.accumulate(model):
                accelerator.backward(loss_of(model, x))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 0.1)
                made.step()
                schedule.step()
                made.zero_grad()
        accelerator.save_state(str(tmp_path / f"at{last}"))
        return list(accelerator.unwrap_model(model).parameters())

    check_both_ways(run, 3, 7)
