"""What `test_dtensor.py` runs in every process: ``python sharded.py FOLDER RANK`` writes {check: error or ""}."""

import json
import os
import sys
import traceback
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor, init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel, parallelize_module
from torch.testing._internal.two_tensor import TwoTensor

import kernels
from kernels import bits, functional

WORLD = 2
# torch's own bits on a CPU: SGD's everywhere, those of its fused kernels in whole vectors.
LIKE_TORCH: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}, {}),
    ("AdamW", {"lr": 0.1}, {"fused": True}),
)


class Net(torch.nn.Module):
    """Two layers. Shards are whole vectors, as torch's CPU kernels want them; of a last row one process has none."""

    def __init__(self, width: int = 64, *, norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = torch.nn.LayerNorm(width) if norm else torch.nn.Identity()
        self.up = torch.nn.Linear(width, 128)
        self.down = torch.nn.Linear(128, width if norm else 1, bias=False)

    def forward(self, x: Tensor) -> Any:
        return self.down(self.up(self.norm(x)).relu())


def sharded(dtype: torch.dtype = torch.float32) -> Net:
    net = Net().to(dtype)
    for module in (net.up, net.down, net):
        fully_shard(module, mesh=MESH)
    return net


def trained(net: Net, optimizer: Any, steps: range, x: Any = None) -> None:
    dtype = next(net.parameters()).dtype
    for step in steps:
        data = torch.randn(4, 64, generator=torch.Generator().manual_seed(step)).to(dtype) if x is None else x
        optimizer.zero_grad()
        out = net(data)
        (out.to_local() if isinstance(out, DTensor) else out).square().sum().backward()
        optimizer.step()


def ours_for(name: str, switches: dict[str, Any]) -> dict[str, Any]:
    return {"recipe": "cpu-fused"} if switches.get("fused") else {}


def local(tensor: Any) -> Tensor:
    found: Tensor = tensor.detach()
    return found.to_local() if isinstance(found, DTensor) else found


def wrong(ours: Any, theirs: Any) -> int:
    pairs = list(zip(ours, theirs, strict=True))
    return sum(bits.mismatches(local(a), local(b)) for a, b in pairs)


def everything(net: Net, optimizer: Any) -> Iterator[Tensor]:
    for p in net.parameters():
        yield p
        yield from optimizer.state[p].values()


def refused(kind: type[Exception], words: tuple[str, ...], call: Any) -> None:
    try:
        call()
    except kind as error:
        missing = [word for word in words if word not in str(error)]
        assert not missing, f"{missing} not in: {error}"
    else:
        raise AssertionError(f"no {kind.__name__} with {words}")


def check_fsdp_has_torchs_bits_and_states_of_the_same_placement() -> None:
    for name, options, switches in LIKE_TORCH:
        nets = [sharded(), sharded()]
        theirs = getattr(torch.optim, name)(nets[0].parameters(), **options, **switches)
        ours = getattr(kernels, name)(nets[1].parameters(), **options, **ours_for(name, switches))
        for net, optimizer in zip(nets, (theirs, ours), strict=True):
            trained(net, optimizer, range(3))
        assert local(nets[1].down.weight).numel() == (0 if RANK else 128)
        assert wrong(everything(nets[1], ours), everything(nets[0], theirs)) == 0, name
        for p, q in zip(*(net.parameters() for net in nets), strict=True):
            assert list(theirs.state[p]) == list(ours.state[q])
        for a, b in zip(everything(nets[1], ours), everything(nets[0], theirs), strict=True):
            assert type(a) is type(b) and getattr(a, "placements", None) == getattr(b, "placements", None)


def check_shards_are_those_of_the_whole_step() -> None:
    for algorithm in kernels.ALGORITHMS.values():
        for recipe in (r for r in algorithm.recipes.values() if not r.lanes):
            nets = [sharded(), Net()]
            make = kernels.CLASSES[algorithm.title]
            ours, alone = (make(n.parameters(), lr=0.1, weight_decay=0.1, recipe=recipe.name) for n in nets)
            for step in range(3):
                for p, q in zip(*(net.parameters() for net in nets), strict=True):
                    q.grad = torch.randn(q.shape, generator=torch.Generator().manual_seed(step))
                    p.grad = distribute_tensor(q.grad, MESH, p.placements)
                ours.step()
                alone.step()
            full = [t.full_tensor() if isinstance(t, DTensor) else t for t in everything(nets[0], ours)]
            assert wrong(full, everything(nets[1], alone)) == 0, (algorithm.name, recipe.name)


def check_lanes_follow_the_local_shard() -> None:
    # 18 rows of 7: each process has 63 elements, torch's path for unaligned tensors.
    whole, grad = torch.randn(18, 7), torch.randn(18, 7)
    p = torch.nn.Parameter(distribute_tensor(whole, MESH, [Shard(0)]))
    p.grad = distribute_tensor(grad, MESH, [Shard(0)])
    kernels.Adam([p], lr=0.1, weight_decay=0.1, recipe="fused").step()
    mine, theirs = (local(distribute_tensor(t, MESH, [Shard(0)])).clone() for t in (whole, grad))
    moments = [torch.zeros_like(mine) for _ in range(2)]
    functional.adam_([mine], [theirs], [moments[0]], [moments[1]], step=1.0, lr=0.1, weight_decay=0.1, recipe="fused")
    assert wrong([p], [mine]) == 0


def check_tensor_parallel_with_partial_gradients_has_torchs_bits() -> None:
    x = torch.randn(2, 8, 64, generator=torch.Generator().manual_seed(5)).chunk(WORLD, 1)[RANK]
    plan = {
        "norm": SequenceParallel(),
        "up": ColwiseParallel(input_layouts=Shard(1)),
        "down": RowwiseParallel(output_layouts=Shard(1)),
    }
    nets = [parallelize_module(Net(norm=True), MESH, plan) for _ in range(2)]
    options = {"lr": 0.01, "momentum": 0.9}
    theirs, ours = torch.optim.SGD(nets[0].parameters(), **options), kernels.SGD(nets[1].parameters(), **options)
    for net, optimizer in zip(nets, (theirs, ours), strict=True):
        trained(net, optimizer, range(3), x)
        assert net.norm.weight.grad.placements == (Partial(),)
    assert wrong(everything(nets[1], ours), everything(nets[0], theirs)) == 0
    # A process that makes its plans anew takes part in as many sums as the others do.
    if RANK:
        entry = ours.state[nets[1].norm.weight]
        entry["momentum_buffer"] = entry["momentum_buffer"].clone()
    for net, optimizer in zip(nets, (theirs, ours), strict=True):
        trained(net, optimizer, range(3, 5), x)
    assert wrong(everything(nets[1], ours), everything(nets[0], theirs)) == 0


def check_two_dimensions_of_processes_have_torchs_bits() -> None:
    # FSDP2 over tensor parallelism: parameters of two placements, one of them strided.
    grid = init_device_mesh("cpu", (1, WORLD), mesh_dim_names=("data", "model"))
    nets = []
    for _ in range(2):
        net = parallelize_module(Net(128), grid["model"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
        nets.append(fully_shard(net, mesh=grid["data"]))
    options = {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1}
    theirs, ours = torch.optim.SGD(nets[0].parameters(), **options), kernels.SGD(nets[1].parameters(), **options)
    x = torch.randn(4, 128, generator=torch.Generator().manual_seed(7))
    for net, optimizer in zip(nets, (theirs, ours), strict=True):
        trained(net, optimizer, range(3), x)
    placements = {type(each).__name__ for p in nets[1].parameters() for each in p.placements}
    assert placements == {"_StridedShard", "Shard"}, placements
    assert wrong(everything(nets[1], ours), everything(nets[0], theirs)) == 0


def check_distributed_checkpoints_cross_both_ways() -> None:
    options = {"lr": 0.1}
    roots: dict[str, Any] = {
        "torch": lambda p: torch.optim.AdamW(p, **options, fused=True),
        "ours": lambda p: kernels.AdamW(p, **options, recipe="cpu-fused"),
    }
    straight = sharded()
    trained(straight, roots["torch"](straight.parameters()), range(4))
    for before, after in (("torch", "ours"), ("ours", "torch")):
        first = sharded()
        optimizer = roots[before](first.parameters())
        trained(first, optimizer, range(2))
        folder = FOLDER / f"{before}-{after}"
        saved = {"model": first.state_dict(), "optimizer": get_optimizer_state_dict(first, optimizer)}
        dcp.save(saved, checkpoint_id=folder)
        second = sharded()
        resumed = roots[after](second.parameters())
        loaded = {"model": second.state_dict(), "optimizer": get_optimizer_state_dict(second, resumed)}
        dcp.load(loaded, checkpoint_id=folder)
        second.load_state_dict(loaded["model"])
        set_optimizer_state_dict(second, resumed, loaded["optimizer"])
        trained(second, resumed, range(2, 4))
        assert wrong(second.parameters(), straight.parameters()) == 0, (before, after)


def check_masters_are_float32_dtensors() -> None:
    net = sharded(torch.bfloat16)
    ours = kernels.AdamW(net.parameters(), lr=0.1, master_weights=True)
    trained(net, ours, range(2))
    for p in net.parameters():
        master = ours.state[p]["master_param"]
        assert isinstance(master, DTensor) and master.dtype == torch.float32 and master.placements == p.placements
        assert wrong([p], [local(master).bfloat16()]) == 0


def check_an_infinity_in_one_shard_skips_the_step_everywhere() -> None:
    for recipe in ("fused", "for-loop"):
        p = torch.nn.Parameter(distribute_tensor(torch.ones(128), MESH, [Shard(0)]))
        ours, scaler = kernels.AdamW([p], lr=0.1, recipe=recipe), torch.amp.GradScaler("cpu", init_scale=4.0)
        counts = []
        for infinite in (False, True, False):
            grad = torch.full((128,), 4.0)
            grad[100] = torch.inf if infinite else 4.0
            p.grad = distribute_tensor(grad, MESH, [Shard(0)])
            scaler.scale(torch.ones(()))
            scaler.step(ours)
            scaler.update()
            assert not isinstance(getattr(ours, "found_inf", None), DTensor)
            counts.append((ours.state[p]["step"].item(), scaler.get_scale()))
        assert counts == [(1.0, 4.0), (1.0, 2.0), (2.0, 2.0)], (recipe, counts)


def check_autograd_sees_what_a_step_wrote() -> None:
    p = torch.nn.Parameter(distribute_tensor(torch.ones(4), MESH, [Shard(0)]))
    loss = (p * p).sum()
    p.grad = distribute_tensor(torch.ones(4), MESH, [Shard(0)])
    kernels.SGD([p], lr=0.1).step()
    refused(RuntimeError, ("modified by an inplace operation",), loss.backward)


def check_a_shard_that_was_replaced_is_the_one_that_is_stepped() -> None:
    p = torch.nn.Parameter(distribute_tensor(torch.ones(4), MESH, [Shard(0)]))
    ours = kernels.SGD([p], lr=0.5)
    for expected in (0.5, 0.0):
        p.grad = distribute_tensor(torch.ones(4), MESH, [Shard(0)])
        ours.step()
        assert local(p).tolist() == [expected] * 2
        p._local_tensor = p._local_tensor.clone()


def check_refusals_name_the_placement_or_the_type() -> None:
    ones = torch.ones(4)
    partial = DTensor.from_local(ones, MESH, [Partial()])
    refused(TypeError, ("Partial", "redistribute"), lambda: kernels.SGD([torch.nn.Parameter(partial)]))
    wrapped = DTensor.from_local(TwoTensor(ones, ones.clone()), MESH, [Shard(0)])
    refused(TypeError, ("TwoTensor", "no memory of its own"), lambda: kernels.SGD([torch.nn.Parameter(wrapped)]))
    p = torch.nn.Parameter(distribute_tensor(ones, MESH, [Shard(0)]))
    ours = kernels.SGD([p], lr=0.1, momentum=0.9)
    p.grad = distribute_tensor(ones, MESH, [Shard(0)])
    ours.state[p]["momentum_buffer"] = torch.ones(2)
    refused(TypeError, ("momentum_buffer", "a plain Tensor", "DTensor"), ours.step)
    ours.state[p]["momentum_buffer"] = distribute_tensor(ones, MESH, [Replicate()])
    refused(ValueError, ("momentum_buffer", "Replicate", "Shard"), ours.step)
    plain = torch.nn.Parameter(torch.ones(4))
    ours = kernels.SGD([plain], lr=0.1, momentum=0.9)
    plain.grad = torch.ones(4)
    ours.state[plain]["momentum_buffer"] = distribute_tensor(ones, MESH, [Shard(0)])
    refused(TypeError, ("momentum_buffer", "DTensor", "plain"), ours.step)
    refused(TypeError, ("DTensor",), lambda: functional.sgd_([p], [p.grad], lr=0.1))
    assert local(p).tolist() == [1.0, 1.0] and plain.tolist() == [1.0] * 4


def main() -> None:
    report = {}
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            try:
                check()
                report[name] = ""
            except Exception:
                report[name] = traceback.format_exc()
    (FOLDER / f"{RANK}.json").write_text(json.dumps(report))
    dist.destroy_process_group()
    # Threads of gloo can abort an interpreter that is ending.
    os._exit(0)


if __name__ == "__main__":
    FOLDER, RANK = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    store = f"file://{FOLDER / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=RANK, world_size=WORLD, timeout=timedelta(seconds=30))
    MESH = init_device_mesh("cpu", (WORLD,))
    main()
