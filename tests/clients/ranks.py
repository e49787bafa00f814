"""What `test_distributed.py` runs in every process: ``python ranks.py FOLDER RANK NAME PRECISION``."""

import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from training import batches, check_both_ways, loss_of, network, optimizer

WORLD = 2
FOLDER, RANK, NAME, PRECISION = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
POLICY = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


def run(whose: str, first: int, last: int) -> list[torch.Tensor]:
    model = network()
    for module in (*model, model):
        fully_shard(module, mesh=MESH, mp_policy=POLICY if PRECISION == "bf16" else MixedPrecisionPolicy())
    made = optimizer(whose, NAME, model.parameters())
    schedule = torch.optim.lr_scheduler.ExponentialLR(made, 0.9)
    if first:
        model_state, optimizer_state = get_state_dict(model, made)
        schedule_state = schedule.state_dict()
        state = {"model": model_state, "optimizer": optimizer_state, "schedule": schedule_state}
        dcp.load(state, checkpoint_id=FOLDER / f"at{first}")
        set_state_dict(model, made, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        schedule.load_state_dict(state["schedule"])
    for step in range(first, last):
        for part in range(2):
            model.set_requires_gradient_sync(part == 1)
            x = batches(32)[(2 * step + part) * WORLD + RANK]
            loss_of(model, x).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        assert isinstance(norm, DTensor)
        made.step()
        made.zero_grad()
        schedule.step()
    model_state, optimizer_state = get_state_dict(model, made)
    state = {"model": model_state, "optimizer": optimizer_state, "schedule": schedule.state_dict()}
    dcp.save(state, checkpoint_id=FOLDER / f"at{last}")
    assert all(isinstance(p, DTensor) for p in model.parameters())
    return [p.full_tensor() for p in model.parameters()]


if __name__ == "__main__":
    torch.set_num_threads(1)
    store = f"file://{FOLDER / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=RANK, world_size=WORLD, timeout=timedelta(seconds=60))
    MESH = dist.init_device_mesh("cpu", (WORLD,))
    check_both_ways(run, 3, 6)
    dist.barrier()
    dist.destroy_process_group()
    # Threads of gloo can abort an interpreter that is ending.
    os._exit(0)
