"""What only a GPU can show: graphs, 64-bit indices, skipped steps on the device, many tensors, populations."""

from typing import Any

import pytest
import torch

import kernels
from kernels import bits

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available() or kernels.interpreter.ACTIVE, reason="needs a CUDA device"),
]

GRAPHED = [
    ("Adam", {"fused": True}),
    ("AdamW", {"fused": True, "amsgrad": True}),
    ("Adam", {"capturable": True}),
    ("SGD", {"momentum": 0.9, "weight_decay": 0.1}),
    ("RMSprop", {"momentum": 0.9, "centered": True, "capturable": True}),
]


def _params(sizes: tuple[int, ...] = (5, 1024, 3000), dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    generator = torch.Generator(device="cuda").manual_seed(3)
    return [torch.nn.Parameter(torch.randn(n, device="cuda", generator=generator).to(dtype)) for n in sizes]


def _grads(params: list[torch.nn.Parameter], seed: int) -> list[torch.Tensor]:
    generator = torch.Generator(device="cuda").manual_seed(seed)
    return [torch.randn(p.shape, device="cuda", generator=generator).to(p.dtype) for p in params]


def _wrong(a: list[torch.nn.Parameter], b: list[torch.nn.Parameter]) -> list[int]:
    return [bits.mismatches(x.detach(), y.detach()) for x, y in zip(a, b, strict=True)]


@pytest.mark.parametrize("fresh_gradients", [False, True])
@pytest.mark.parametrize(("name", "options"), GRAPHED)
def test_graph_replays_step_with_new_gradients_and_rates(
    name: str, options: dict[str, Any], fresh_gradients: bool
) -> None:
    captured, eager = _params(), _params()
    graphed = getattr(kernels, name)(captured, lr=0.1, **options)
    plain = getattr(kernels, name)(eager, lr=0.1, **options)
    steps = 0

    def take(optimizer: torch.optim.Optimizer, params: list[torch.nn.Parameter], seed: int) -> None:
        for p, g in zip(params, _grads(params, seed), strict=True):
            if p.grad is None:
                p.grad = g
            else:
                p.grad.copy_(g)
        optimizer.step()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for seed in range(3):
            take(graphed, captured, seed)
    torch.cuda.current_stream().wait_stream(stream)
    for seed in range(3):
        take(plain, eager, seed)
    if fresh_gradients:
        # What zero_grad(set_to_none=True) and a captured backward do: other addresses at capture.
        for p in captured:
            p.grad = torch.zeros_like(p)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        graphed.step()
    for steps in range(4):
        if steps == 2:
            for optimizer in (graphed, plain):
                optimizer.param_groups[0]["lr"] = 0.01
            graphed.refresh()
        for p, g in zip(captured, _grads(captured, 100 + steps), strict=True):
            p.grad.copy_(g)
        graph.replay()
        take(plain, eager, 100 + steps)
    torch.cuda.synchronize()
    assert _wrong(captured, eager) == [0, 0, 0]


@pytest.mark.parametrize("fresh_gradients", [False, True])
@pytest.mark.parametrize(("name", "options"), GRAPHED)
def test_graphed_steps_have_the_bits_of_ordinary_ones(
    name: str, options: dict[str, Any], fresh_gradients: bool
) -> None:
    mine, theirs = _params(), _params()
    replayed = kernels.graphed(getattr(kernels, name)(mine, lr=0.1, **options))
    plain = getattr(kernels, name)(theirs, lr=0.1, **options)
    for step in range(24):
        for optimizer, params in ((replayed, mine), (plain, theirs)):
            for p, g in zip(params, _grads(params, step), strict=True):
                if p.grad is None or fresh_gradients:
                    p.grad = g
                else:
                    p.grad.copy_(g)
            if step == 8:
                optimizer.param_groups[0]["lr"] = 0.03
            if step == 12:
                params[1].data = params[1].data.clone()
            if step == 16:
                params[0].grad = None
            optimizer.step()
    torch.cuda.synchronize()
    assert _wrong(mine, theirs) == [0, 0, 0]
    steps = [[state.get("step", torch.zeros(())).item() for state in o.state.values()] for o in (replayed, plain)]
    assert steps[0] == steps[1]
    assert replayed._graphs.captures >= 2 and replayed._graphs.replays >= 8


@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")
def test_capture_of_a_host_counted_step_is_refused() -> None:
    params = _params()
    optimizer = kernels.Adam(params)
    for p, g in zip(params, _grads(params, 0), strict=True):
        p.grad = g
    optimizer.step()
    torch.cuda.synchronize()
    with pytest.raises(RuntimeError, match="recipe='fused'"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        optimizer.step()
    torch.cuda.synchronize()


def test_indices_beyond_32_bits() -> None:
    n = 2**31 + 2500
    p = torch.nn.Parameter(torch.zeros(n, dtype=torch.bfloat16, device="cuda"))
    p.grad = torch.zeros(n, dtype=torch.bfloat16, device="cuda")
    marks = torch.tensor([0, 1023, 1024, 2**30, 2**31 - 1, 2**31, 2**31 + 1024, n - 1], device="cuda")
    p.grad[marks] = 1.0
    kernels.SGD([p], lr=0.5).step()
    assert p.detach()[marks].float().tolist() == [-0.5] * len(marks)
    assert int(p.detach().count_nonzero()) == len(marks)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD"])
def test_grad_scaler_as_torch_fused(name: str) -> None:
    results = []
    for make in (getattr(torch.optim, name), getattr(kernels, name)):
        params = _params()
        optimizer = make(params, lr=0.05, fused=True, weight_decay=0.1)
        scaler = torch.amp.GradScaler("cuda", init_scale=3000.0, growth_interval=2)
        for step in range(6):
            for p, g in zip(params, _grads(params, step), strict=True):
                p.grad = g * scaler.scale(torch.ones((), device="cuda"))
                if step == 2:
                    p.grad[0] = float("inf")
            scaler.step(optimizer)
            scaler.update()
        results.append((params, scaler.get_scale()))
    assert _wrong(results[0][0], results[1][0]) == [0, 0, 0]
    assert results[0][1] == results[1][1]


@pytest.mark.parametrize("recipe", ["foreach", "fused"])
def test_ten_thousand_tiny_tensors(recipe: str) -> None:
    sizes = tuple(1 + i % 97 for i in range(10_000))
    ours, theirs = _params(sizes), _params(sizes)
    pair = [kernels.AdamW(ours, recipe=recipe), torch.optim.AdamW(theirs, **{recipe: True})]
    for seed in range(3):
        for params, optimizer in zip((ours, theirs), pair, strict=True):
            for p, g in zip(params, _grads(params, seed), strict=True):
                p.grad = g
            optimizer.step()
    assert sum(_wrong(ours, theirs)) == 0


@pytest.mark.parametrize("algorithm", sorted(kernels.ALGORITHMS))
def test_population_equals_single_models(algorithm: str) -> None:
    record = kernels.get_algorithm(algorithm).hyperparameters
    hypers = [record(lr=0.01 * (1 + k)) for k in range(7)]
    for width in (49, 64, 4810):
        start = torch.randn(7, width, device="cuda")
        together, alone = start.clone(), start.clone()
        population = kernels.Population(algorithm, hypers, together)
        singles = [kernels.Population(algorithm, [h], alone[k : k + 1]) for k, h in enumerate(hypers)]
        reference = start.cpu()
        oracle = kernels.Population(algorithm, hypers, reference, backend="reference")
        for seed in range(3):
            grads = torch.randn(7, width, device="cuda", generator=torch.Generator(device="cuda").manual_seed(seed))
            population.step(grads)
            oracle.step(grads.cpu())
            for k, single in enumerate(singles):
                single.step(grads[k : k + 1])
        assert bits.mismatches(together, alone) == 0
        assert bits.mismatches(together.cpu(), reference) == 0


def test_states_move_to_torch_and_back_mid_run() -> None:
    ours, theirs = _params(), _params()
    first, second = kernels.Adam(ours, fused=True), torch.optim.Adam(theirs, fused=True)
    for seed in range(6):
        if seed == 3:
            a, b = first.state_dict(), second.state_dict()
            first, second = kernels.Adam(ours, fused=True), torch.optim.Adam(theirs, fused=True)
            first.load_state_dict(b)
            second.load_state_dict(a)
        for params, optimizer in ((ours, first), (theirs, second)):
            for p, g in zip(params, _grads(params, seed), strict=True):
                p.grad = g
            optimizer.step()
    assert _wrong(ours, theirs) == [0, 0, 0]
