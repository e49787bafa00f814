"""`lossscale.Probe`: it changes no bit, its numbers are those that were defined, and each warning comes once."""

import copy
import logging
import math
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

import kernels
import lossscale
from kernels import bits

Make = Callable[..., torch.optim.Optimizer]


def network(dtype: torch.dtype = torch.float32, width: int = 16) -> torch.nn.Sequential:
    torch.manual_seed(0)
    layers = (torch.nn.Linear(8, width), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(width, 4))
    return torch.nn.Sequential(*layers).to(dtype)


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(6, 8).to(next(model.parameters()).dtype)).square().mean().backward()
        optimizer.step()


def one(values: list[float], dtype: torch.dtype = torch.float32) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor(values, dtype=dtype))


def step(optimizer: torch.optim.Optimizer, *grads: Any) -> None:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for p, grad in zip(params, grads, strict=True):
        p.grad = None if grad is None else torch.tensor(grad, dtype=p.dtype)
    optimizer.step()


OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [
    ("Adam", {"amsgrad": True, "weight_decay": 0.1}),
    ("AdamW", {"fused": True}),
    ("RMSprop", {"centered": True, "momentum": 0.5}),
    ("Adagrad", {"lr_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ("SGD", {"lr": 0.1}),
]


@pytest.mark.parametrize("library", [torch.optim, kernels], ids=["torch", "ours"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("name", "options"), OPTIMIZERS, ids=lambda value: str(value))
def test_no_bit_of_the_training_changes(library: Any, dtype: torch.dtype, name: str, options: dict[str, Any]) -> None:
    ends = []
    for watched in (False, True):
        model = network(dtype)
        optimizer = getattr(library, name)(model.parameters(), **options)
        probe = lossscale.Probe(optimizer, every=2, model=model) if watched else None
        train(model, optimizer, 7)
        if probe is not None:
            numbers = probe.take()
            assert numbers is not None and numbers["step"] == 6 and probe.take() is None
            assert numbers["group0/elements"] == 212 and numbers["group0/left_out"] == 0
            assert ("group0/rho" in numbers) == (name != "SGD")
            assert ("layer/0.weight/rho" in numbers) == (name != "SGD")
        tensors = [p.detach() for p in model.parameters()] + [p.grad for p in model.parameters() if p.grad is not None]
        for p in model.parameters():
            tensors += [value for value in optimizer.state[p].values() if isinstance(value, torch.Tensor)]
        ends.append((tensors, torch.get_rng_state()))
    (plain, before), (seen, after) = ends
    assert len(plain) == len(seen)
    for one_tensor, other in zip(plain, seen, strict=True):
        assert int(bits.differing_bits(one_tensor, other).sum()) == 0
    assert torch.equal(before, after)


@pytest.mark.parametrize("make", [torch.optim.Adam, kernels.Adam], ids=["torch", "ours"])
def test_the_numbers_of_a_step_that_is_worked_out_by_hand(make: Make) -> None:
    p = one([1.0, 1.0, 0.0, 2.0**20])
    optimizer = make([p], lr=1e-3, eps=0.5, betas=(0.5, 0.75))
    probe = lossscale.Probe(optimizer, every=1)
    step(optimizer, [0.5, -2.0, 0.0, 2.0**-16])
    numbers = probe.take()
    assert numbers is not None
    # At step 1 m_hat = g and r = |g|: the update is lr g / (|g| + eps), eps's share of it eps / (|g| + eps).
    sizes = [0.5, 2.0, 2.0**-16]
    whole = sum(g / (g + 0.5) for g in sizes)
    rho = sum(g / (g + 0.5) * 0.5 / (g + 0.5) for g in sizes) / whole
    assert numbers["group0/rho"] == pytest.approx(rho, rel=1e-6)
    assert numbers["group0/grad_zero"] == 0.25
    assert numbers["group0/fp16_underflow"] == pytest.approx(1 / 3)
    assert numbers["group0/v_zero_still"] == 0.25 and numbers["group0/v_zero_moving"] == 0.0
    assert numbers["group0/eps_absorbed"] == 0.0
    # lr · 2^-16 / .5 = 3e-8 beside 2^20, whose half ulp is 1/16; the two others move.
    assert numbers["group0/update_lost"] == pytest.approx(1 / 3)
    assert "group0/eps_over_r_q50" not in numbers  # four steps are remembered
    assert "group0/v_unchanged" not in numbers and "loss_scale" not in numbers
    for _ in range(4):
        step(optimizer, [0.5, -2.0, 0.0, 2.0**-16])
    numbers = probe.take()
    assert numbers is not None and numbers["step"] == 5
    assert numbers["group0/eps_over_r_q50"] == pytest.approx(0.5 / 0.5, rel=1e-5)
    assert numbers["group0/eps_over_r_q05"] == pytest.approx(0.5 / 2.0, rel=1e-5)
    assert numbers["group0/v_unchanged"] == 0.0


def test_a_moment_that_rounding_holds_is_seen_in_one_step() -> None:
    p = one([1.0] * 512, torch.bfloat16)
    optimizer = torch.optim.Adam([p], lr=1e-4)
    probe = lossscale.Probe(optimizer, every=1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        step(optimizer, torch.randn(512, generator=generator).tolist())
    numbers = probe.take()
    # Beta2 = .999 in bfloat16: .91 to .97 of the elements are held at v = E g², fewer on the way there.
    assert numbers is not None and numbers["group0/v_unchanged"] > 0.5
    assert numbers["group0/update_lost"] == 1.0  # |u| · lr is at most 1e-3, half an ulp of 1 is 2^-8
    kinds = {finding.kind: finding for finding in probe.warnings}
    assert "beta2 of 0.996 or less" in str(kinds["ratchet"])
    assert "are lost" in str(kinds["lost-updates"]) and len(probe.warnings) == 2


@pytest.mark.parametrize(
    ("make", "dtype", "warned"),
    [
        (lambda p: torch.optim.Adam(p, betas=(0.5, 0.75)), torch.float32, False),
        (lambda p: torch.optim.Adam(p, lr=1.0, betas=(0.5, 0.75)), torch.bfloat16, False),
        (lambda p: torch.optim.Adam(p, lr=1.0), torch.bfloat16, True),
        (lambda p: torch.optim.Adagrad(p, initial_accumulator_value=2.0**26), torch.float32, False),
        (lambda p: torch.optim.Adagrad(p, lr=1e3, initial_accumulator_value=2.0**10), torch.bfloat16, True),
    ],
    ids=["fp32", "bf16-short", "bf16-long", "sum-fp32", "sum-bf16"],
)
def test_a_moment_that_stands_still_as_its_gradients_do_is_not_warned_of(
    make: Make, dtype: torch.dtype, warned: bool
) -> None:
    p = one([1.0, 1.0], dtype)
    optimizer = make([p])
    probe = lossscale.Probe(optimizer, every=100)
    for _ in range(1000 if warned and isinstance(optimizer, torch.optim.Adam) else 200):
        step(optimizer, [1.0, 0.5])
    numbers = probe.take()
    assert numbers is not None and numbers["group0/v_unchanged"] == 1.0
    assert any(finding.kind == "ratchet" for finding in probe.warnings) == warned


def test_masters_and_exact_sums_are_not_warned_of() -> None:
    p = one([1.0] * 8, torch.bfloat16)
    masters = kernels.AdamW([p], lr=1e-4, weight_decay=0.01, master_weights=True)
    probe = lossscale.Probe(masters, every=1)
    for _ in range(3):
        step(masters, [1.0] * 8)
    numbers = probe.take()
    assert numbers is not None and numbers["group0/update_lost"] == 0.0 and probe.warnings == []
    for state, option in (("kahan_comp", {}), ("", {"stochastic_rounding": True})):
        optimizer = torch.optim.AdamW([{"params": [one([1.0], torch.bfloat16)], **option}], lr=1e-6)
        step(optimizer, [1.0])
        if state:
            optimizer.state[optimizer.param_groups[0]["params"][0]][state] = torch.zeros(1)
        probe = lossscale.Probe(optimizer, every=1)
        step(optimizer, [1.0])
        numbers = probe.take()
        assert numbers is not None and numbers["group0/update_lost"] == 1.0 and probe.warnings == []


@pytest.mark.parametrize(
    ("kind", "dtype", "options", "grads", "words"),
    [
        ("eps-decides", torch.float32, {"eps": 1e-3}, [1e-3] * 4, r"eps = 0.001 decides 50.0% .* eps below 1.0e-05"),
        ("eps-decides", torch.float32, {"eps": 1.0}, [1e-3] * 4, "nearer to SGD"),
        ("fp16-underflow", torch.float16, {"eps": 1e-4}, [1.0, 1e-5, 1e-5, 0.0], r"66.7% .* raise the loss scale"),
        ("zero-v", torch.float16, {"eps": 1e-4}, [1.0, 1e-3, 1e-3, 0.0], "50.00% of the elements"),
        ("eps-is-zero", torch.float16, {}, [1.0] * 4, "is 0 in float16"),
        ("inert-decay", torch.bfloat16, {"weight_decay": 0.1, "lr": 1e-2}, [1.0] * 4, "below half an ulp of 1 in bf16"),
        ("inert-decay", torch.float32, {"weight_decay": 0.01, "lr": 2e-6}, [1.0] * 4, "in fp32"),
        ("nonfinite-update", torch.float32, {"eps": 0.0}, [1.0, 1.0, 1.0, 0.0], "eps = 0: give an eps above 0"),
        ("nonfinite-state", torch.float32, {}, [1.0, math.nan, 1.0, 1.0], "25.00% of the states"),
    ],
)
def test_each_warning(
    caplog: pytest.LogCaptureFixture,
    kind: str,
    dtype: torch.dtype,
    options: dict[str, Any],
    grads: list[float],
    words: str,
) -> None:
    optimizer = torch.optim.AdamW([one([1.0] * 4, dtype)], **{"weight_decay": 0.0, **options})
    probe = lossscale.Probe(optimizer, every=1)
    with caplog.at_level(logging.WARNING, "lossscale.probe"):
        step(optimizer, grads)
        step(optimizer, grads)
    (finding,) = [finding for finding in probe.warnings if finding.kind == kind]
    assert math.isfinite(finding.number)
    said = [record.getMessage() for record in caplog.records if str(finding) in record.getMessage()]
    assert len(said) == 1 and said[0].startswith("step 1: group 0: ")
    assert pytest.importorskip("re").search(words, said[0]), said[0]


def test_a_healthy_run_is_not_warned_of() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        model = network(dtype)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.3, betas=(0.9, 0.95))
        probe = lossscale.Probe(optimizer)
        train(model, optimizer, 3)
        assert probe.warnings == []


# ---- Scalers --------------------------------------------------------------------------------------------------------


class Scaled:
    """A training whose gradients are infinite at some steps."""

    def __init__(self, make: Make, **options: Any) -> None:
        self.p = one([1.0, 1.0])
        self.optimizer = make([self.p], lr=1e-3, **options)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=3)
        self.probe = lossscale.Probe(self.optimizer, every=1, scaler=self.scaler)

    def run(self, infinite: bool) -> None:
        self.optimizer.zero_grad()
        factor = math.inf if infinite else 1.0
        self.scaler.scale((self.p * torch.tensor([1.0, 2.0**-20])).sum() * factor).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (torch.optim.AdamW, {}),
        (torch.optim.AdamW, {"fused": True}),
        (torch.optim.SGD, {"fused": True}),
        (kernels.AdamW, {}),
        (kernels.AdamW, {"recipe": "fused"}),
    ],
    ids=["torch", "torch-fused", "torch-sgd-fused", "ours", "ours-fused"],
)
def test_skipped_steps_are_counted_and_scaled_gradients_divided(make: Make, options: dict[str, Any]) -> None:
    run, skipped, scales = Scaled(make, **options), 0, set()
    # The scale grows after every third step that ran; a skip right after that is the hard one to see.
    for number, infinite in enumerate(map(int, "0100010001100000011110001")):
        before = run.scaler.get_scale()
        run.run(bool(infinite))
        skipped += infinite
        numbers = run.probe.take()
        assert numbers is not None
        if infinite:
            assert numbers == {"skipped_steps": skipped}
        else:
            assert numbers["skipped_steps"] == skipped, number
            assert numbers["loss_scale"] == before
            in_the_step = options.get("fused") or options.get("recipe") == "fused"
            assert numbers["grads_divided_by"] == (before if in_the_step else 1.0)
            # One gradient is 2^-20: times a scale below 2^6 it is below 2^-14, whoever divides it.
            assert numbers["group0/fp16_underflow"] == (0.5 if before < 2**6 else 0.0)
            scales.add(before)
            if "group0/rho" in numbers and number == 0:
                assert numbers["group0/rho"] == pytest.approx(0.005161, rel=1e-3)
    assert min(scales) < 2**6 < max(scales)
    assert run.probe._skips.counts()[0] == skipped


def test_a_scaler_that_skips_every_step_is_told_of() -> None:
    run = Scaled(torch.optim.AdamW)
    run.probe._every = 50
    told = []
    for _ in range(150):
        run.run(True)
        told.append(run.probe.take())
    assert [place for place, numbers in enumerate(told) if numbers] == [49, 99, 149]
    assert told[99] == {"skipped_steps": 100.0}
    assert [finding.kind for finding in run.probe.warnings] == ["skipped"]


def test_a_scaler_that_is_switched_off_says_nothing() -> None:
    p = one([1.0])
    optimizer = torch.optim.Adam([p])
    probe = lossscale.Probe(optimizer, scaler=torch.amp.GradScaler("cpu", enabled=False))
    step(optimizer, [1.0])
    numbers = probe.take()
    assert numbers is not None and "loss_scale" not in numbers and "skipped_steps" not in numbers


# ---- What comes in --------------------------------------------------------------------------------------------------


def test_gradients_that_a_closure_makes() -> None:
    p = one([1.0, 1.0])
    optimizer = torch.optim.Adam([p])
    probe = lossscale.Probe(optimizer, every=1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (p * torch.tensor([1.0, 0.0])).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    numbers = probe.take()
    assert numbers is not None and numbers["group0/grad_zero"] == 0.5


def test_sparse_empty_and_missing_gradients_are_left_out() -> None:
    table = torch.nn.Embedding(5, 3, sparse=True)
    dense, idle = one([1.0, 2.0]), one([1.0])
    optimizer = torch.optim.SGD(
        [{"params": [table.weight, dense, idle]}, {"params": []}, {"params": [one([3.0])]}], lr=0.1
    )
    probe = lossscale.Probe(optimizer, every=1)
    (table(torch.tensor([1, 2])).sum() + dense.sum()).backward()
    optimizer.step()
    numbers = probe.take()
    assert numbers is not None
    assert (numbers["group0/elements"], numbers["group0/left_out"]) == (2, 2)
    assert (numbers["group1/elements"], numbers["group1/left_out"]) == (0, 0)
    assert (numbers["group2/elements"], numbers["group2/left_out"]) == (0, 1)
    assert not any(name.startswith("group1/") and "out" not in name and "elements" not in name for name in numbers)


def test_other_dtypes_are_left_out() -> None:
    double = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = torch.optim.Adam([double])
    probe = lossscale.Probe(optimizer, every=1)
    double.grad = torch.ones(2, dtype=torch.float64)
    optimizer.step()
    numbers = probe.take()
    assert numbers is not None and (numbers["group0/elements"], numbers["group0/left_out"]) == (0, 1)


def test_large_parameters_are_sampled_evenly() -> None:
    model = torch.nn.Linear(1000, 100)  # 50 elements for each one that is looked at
    optimizer = torch.optim.Adam(model.parameters())
    probe = lossscale.Probe(optimizer, every=1, model=model, elements=2002)
    model.weight.grad = torch.zeros(100, 1000)
    model.weight.grad[:, ::2] = 1.0  # every other column: a constant stride would see all or nothing of it
    model.bias.grad = torch.ones(100)
    optimizer.step()
    numbers = probe.take()
    assert numbers is not None and numbers["group0/elements"] == 2000 + 64
    assert numbers["layer/weight/grad_zero"] == pytest.approx(0.5, abs=0.02)
    # The bias is looked at more closely, and counts for its size all the same.
    assert numbers["group0/grad_zero"] == pytest.approx(numbers["layer/weight/grad_zero"] * 1000 / 1001, rel=1e-9)


def test_parameters_that_come_later_are_seen() -> None:
    optimizer = torch.optim.Adam([one([1.0])])
    probe = lossscale.Probe(optimizer, every=1)
    step(optimizer, [1.0])
    optimizer.add_param_group({"params": [one([1.0, 2.0])]})
    step(optimizer, [1.0], [1.0, 1.0])
    numbers = probe.take()
    assert numbers is not None and numbers["group1/elements"] == 2
    assert numbers["group1/rho"] == pytest.approx(1e-8, rel=1e-3)


def test_states_that_have_seen_different_steps() -> None:
    late, early = one([1.0]), one([1.0])
    optimizer = torch.optim.Adam([early, late], betas=(0.5, 0.75), eps=0.25)
    probe = lossscale.Probe(optimizer, every=1)
    step(optimizer, [1.0], None)
    step(optimizer, [1.0], [1.0])
    numbers = probe.take()
    assert numbers is not None and numbers["group0/rho"] == pytest.approx(0.2, rel=1e-6)


def test_a_wrapped_optimizer_is_watched_and_a_copy_is_not() -> None:
    inner = torch.optim.Adam([one([1.0])])

    class Wrapped(torch.optim.Optimizer):
        def __init__(self) -> None:
            self.optimizer = inner

    probe = lossscale.Probe(Wrapped(), every=1)
    copied = copy.deepcopy(inner)
    step(inner, [1.0])
    step(copied, [1.0])
    assert probe.steps == 1
    probe.detach()
    step(inner, [1.0])
    assert probe.steps == 1


class Renamed(torch.optim.AdamW):
    pass


def test_what_is_refused() -> None:
    p = one([1.0])
    assert lossscale.Probe(Renamed([p])).take() is None
    adam = torch.optim.Adam([p])
    for make, error, words in [
        (lambda: lossscale.Probe(torch.optim.Adamax([p])), TypeError, "optimizer Adamax: no degrees are known"),
        (lambda: lossscale.Probe(p), TypeError, "optimizer Parameter: is no torch.optim.Optimizer"),
        (lambda: lossscale.Probe(adam, every=0), ValueError, "every 0: must be at least 1"),
        (lambda: lossscale.Probe(adam, elements=0), ValueError, "elements 0: must be at least 1"),
        (lambda: lossscale.Probe(adam, model=torch.nn.Linear(1, 1)), ValueError, "none of the optimizer's parameters"),
        (lambda: lossscale.Probe(adam, scaler=3), TypeError, "scaler int: is no GradScaler"),
    ]:
        with pytest.raises(error, match=words):
            make()
    adam.state[p] = {"step": torch.tensor(1.0), "state1": torch.zeros(1)}
    with pytest.raises(ValueError, match="its states are step, state1, without exp_avg, exp_avg_sq"):
        lossscale.Probe(adam)


def test_an_error_inside_detaches_the_probe_and_the_training_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    p = one([1.0])

    class Adam(torch.optim.SGD):  # its states are not those of its name
        pass

    optimizer = Adam([p], lr=0.1)
    probe = lossscale.Probe(optimizer, every=1)
    step(optimizer, [1.0])
    assert probe.take() is None and "no exp_avg and no exp_avg_sq: it is not Adam's" in caplog.text
    step(optimizer, [1.0])
    assert p.item() == pytest.approx(0.8) and probe.steps == 1


def test_a_group_of_two_dtypes() -> None:
    wide, narrow = one([1.0] * 3), one([1.0], torch.bfloat16)
    optimizer = torch.optim.Adam([wide, narrow], lr=1e-3)  # half an ulp of 1 is 2^-24 and 2^-8
    probe = lossscale.Probe(optimizer, every=1)
    step(optimizer, [1.0] * 3, [1.0])
    numbers = probe.take()
    assert numbers is not None and numbers["group0/update_lost"] == 0.25
    assert numbers["group0/eps_absorbed"] == 1.0


@pytest.mark.parametrize("fused", [False, True], ids=["scaler-skips", "fused"])
@pytest.mark.parametrize("interval", [1, 2, 3, 7, 20])
def test_skips_are_counted_though_the_scaler_is_read_now_and_then(fused: bool, interval: int) -> None:
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        p, every, odds = one([1.0]), (1, 2, 5)[seed % 3], (0.05, 0.3, 0.6)[seed // 2]
        optimizer = torch.optim.AdamW([p], fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=interval, growth_factor=4.0)
        probe, skipped, read = None, 0, 0
        for number in range(40):
            if number == seed % 2:  # before the first step, and after it
                probe, skipped = lossscale.Probe(optimizer, every=every, scaler=scaler), 0
            infinite = bool(torch.rand((), generator=generator) < odds)
            optimizer.zero_grad()
            scaler.scale(p.sum() * (math.inf if infinite else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
            skipped += infinite
            if probe is not None and (numbers := probe.take()):
                assert numbers["skipped_steps"] == skipped
                read += 1
        assert read


def test_a_scaler_is_not_read_at_every_step() -> None:
    optimizer = torch.optim.SGD([one([1.0])], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", growth_interval=40)
    scaler.scale(torch.ones(1))
    readings = []
    told = scaler.state_dict
    scaler.state_dict = lambda: readings.append(1) or told()  # type: ignore[method-assign,func-returns-value]
    lossscale.Probe(optimizer, every=20, scaler=scaler)
    for _ in range(39):
        step(optimizer, [1.0])
    assert len(readings) == 1 + 2  # when attached, and at steps 1 and 20


def test_a_look_says_the_same_in_one_thread_and_in_parts() -> None:
    code = """
import json, torch, lossscale
torch.manual_seed(0)
p = torch.nn.Parameter(torch.randn(3000, 5))
optimizer = torch.optim.Adam([p], amsgrad=True)
probe = lossscale.Probe(optimizer, every=1)
for _ in range(3):
    p.grad = torch.randn(3000, 5)
    optimizer.step()
print(json.dumps(probe.take()))
"""
    said = []
    for threads in ("1", "4"):
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        said.append(done.stdout)
    assert said[0] == said[1] and "group0/rho" in said[0]


@pytest.mark.parametrize("rate", [0.1, torch.tensor(0.1)], ids=["number", "tensor"])
def test_a_rate_that_changes_is_seen(rate: Any) -> None:
    """By a scheduler, or in place where it is a tensor."""
    parameter = torch.nn.Parameter(torch.ones(8))
    optimizer = torch.optim.AdamW([parameter], lr=rate, weight_decay=0.5)
    probe, seen = lossscale.Probe(optimizer, every=1), []
    for factor in (1.0, 1.0, 2.0):
        if isinstance(rate, torch.Tensor):
            optimizer.param_groups[0]["lr"].mul_(factor)
        else:
            optimizer.param_groups[0]["lr"] *= factor
        parameter.grad = torch.ones(8)
        optimizer.step()
        numbers = probe.take()
        assert numbers is not None
        seen.append(numbers["group0/decay_per_step"])
    assert seen == pytest.approx([0.05, 0.05, 0.1])
