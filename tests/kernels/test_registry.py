"""A new algorithm is one file: everything else about Lion follows from its registration."""

import sys
from collections.abc import Iterator

import pytest
import torch
import triton.language as tl
from configurations import draw, run

import kernels
from bench.machine_code import limits
from bench.machine_code.variants import variants as reachable
from bench.timing import roofline
from kernels import bits, step_kernel
from kernels.algorithms import adam as adam_rules
from kernels.algorithms import adam_atan2 as atan2_rules
from kernels.rounding import arithmetic


@pytest.fixture
def lion() -> Iterator[kernels.Algorithm]:
    """Registered by importing its file, and gone afterwards."""
    sys.modules.pop("lion", None)
    import lion as file

    yield file.LION
    del kernels.ALGORITHMS["lion"]


def test_lion_is_not_registered_otherwise() -> None:
    assert "lion" not in kernels.ALGORITHMS


def test_a_rule_gives_its_drop_in(lion: kernels.Algorithm) -> None:
    drop_in = kernels.make_optimizer(lion)
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(n)) for n in (7, 64, 300)]
    by_hand = [p.detach().double() for p in ours]
    momenta = [torch.zeros_like(p) for p in by_hand]
    optimizer = drop_in([{"params": ours[:1], "lr": 0.1}, {"params": ours[1:]}], 0.01, weight_decay=0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    for step in range(4):
        for k, p in enumerate(ours):
            p.grad = torch.randn_like(p)
            lr = (0.1 if k == 0 else 0.01) * 0.5**step
            direction = 0.9 * momenta[k] + 0.1 * p.grad.double()
            by_hand[k] = by_hand[k] * (1 - lr * 0.5) - lr * direction.sign()
            momenta[k] = 0.99 * momenta[k] + 0.01 * p.grad.double()
        optimizer.step()
        scheduler.step()
    for p, expected in zip(ours, by_hand, strict=True):
        torch.testing.assert_close(p.detach().double(), expected, rtol=1e-5, atol=1e-6)
    other = drop_in([{"params": ours[:1]}, {"params": ours[1:]}])
    other.load_state_dict(optimizer.state_dict())
    assert set(other.state[ours[0]]) == {"step", "exp_avg"}
    with pytest.raises(ValueError, match="learning rate"):
        drop_in(ours, lr=-1.0)


def test_population_steps_it_as_single_models(lion: kernels.Algorithm) -> None:
    hypers = [lion.hyperparameters(lr=0.1 * k) for k in range(1, 4)]
    start, grads = torch.randn(3, 33), torch.randn(4, 3, 33)
    together, alone = start.clone(), start.clone()
    population = kernels.Population("lion", hypers, together)
    singles = [kernels.Population("lion", [hyper], alone[k : k + 1]) for k, hyper in enumerate(hypers)]
    for grad in grads:
        population.step(grad)
        for k, single in enumerate(singles):
            single.step(grad[k : k + 1])
    assert bits.mismatches(together, alone) == 0


def test_degrees_rescale_it(lion: kernels.Algorithm) -> None:
    assert lion.degrees == {"params": 0, "grad": 1, "exp_avg": 1, "lr": 0, "betas": 0, "weight_decay": 0}
    hyper = lion.hyperparameters(lr=0.1)
    mapped = lion.rescale(hyper, 2.0**-10)
    params = torch.randn(50).expand(2, 50).contiguous()
    population = kernels.Population("lion", [hyper, mapped], params)
    for _ in range(5):
        population.step(torch.randn(50) * torch.tensor([[1.0], [2.0**-10]]))
    assert bits.mismatches(params[0], params[1]) == 0
    assert bits.mismatches(population.state["exp_avg"][0] * 2.0**-10, population.state["exp_avg"][1]) == 0


def test_bytes_are_counted_and_machine_code_has_a_fingerprint(lion: kernels.Algorithm) -> None:
    assert roofline.bytes_per_element("Lion", {}, "fp32") == 20
    assert roofline.bytes_per_element("Lion", {}, "bf16") == 10
    assert kernels.fingerprint("lion") != kernels.fingerprint("adam")


def test_a_fingerprint_follows_what_becomes_machine_code_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def fingerprints() -> tuple[str, ...]:
        return tuple(map(kernels.fingerprint, ("adam", "adam_atan2")))

    adam, atan2 = fingerprints()
    monkeypatch.setattr(adam_rules, "_fused_row", lambda *arguments: ())
    assert fingerprints() == (adam, atan2)
    with monkeypatch.context() as patch:
        patch.setattr(atan2_rules, "_C3", tl.constexpr(0.5))
        assert fingerprints()[0] == adam and fingerprints()[1] != atan2
    changes = ((adam_rules, "_ema_fused", adam_rules._adam_moments), (arithmetic, "mul", arithmetic.div))
    for module, name, other in (*changes, (step_kernel, "BLOCK", 512)):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, other)
            assert fingerprints()[0] != adam


def test_the_compiler_has_its_rows(lion: kernels.Algorithm) -> None:
    variants = reachable(["sm_90"], ["lion"])
    # Four sets of options, three dtypes, scaled and not; mixed dtypes for two of the sets.
    assert len(variants) == 32


@pytest.mark.skipif(kernels.interpreter.ACTIVE, reason="this process interprets kernels and cannot compile them")
def test_the_compiler_holds_it_against_the_limits(lion: kernels.Algorithm) -> None:
    variants = reachable(["sm_90"], ["lion"])
    plain = next(v for v in variants if (v.flags, v.scaled, str(v.dtypes)) == (0, False, "fp32"))
    assert (row := limits.examine(plain))["verdict"] == "holds", row
    assert row["bytes"] == 20


@pytest.mark.parametrize("backend", ["simd", pytest.param("interpreter", marks=pytest.mark.interpreter)])
def test_other_backends_equal_the_reference(lion: kernels.Algorithm, backend: str) -> None:
    seeds = [seed for seed in range(900) if draw(seed)[0].algorithm.name == "lion"][:25]
    assert len(seeds) == 25
    for seed in seeds:
        stepped, referenced = run(seed, backend), run(seed, "reference")
        for name, tensor in stepped.items():
            assert bits.report(tensor, referenced[name]) is None, f"{name} of {draw(seed)[0]}"
