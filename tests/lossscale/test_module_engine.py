"""The module engine: any torch.nn module as a population, beside the batched engine and an ordinary training loop."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import kernels
from lossscale import studies
from lossscale.__main__ import main
from lossscale.design.grid import NetworkInits, OptimizerSpec
from lossscale.design.policies import POLICIES, get_policy
from lossscale.design.spec import RunSpec
from lossscale.engines.batched import Batched
from lossscale.engines.engine import base_hyperparameters, engine_of, run_cohort
from lossscale.engines.module import Module
from lossscale.engines.observer import Snapshot
from lossscale.models import modules
from lossscale.models.data import Batch, DigitsStream, SamplesFirst, words
from lossscale.models.dropout import Dropout, Masks
from lossscale.models.modules import ModuleNetwork, cross_entropy
from lossscale.runs.summary import read_summary
from lossscale.support import memory
from lossscale.support.errors import InputError

GRID = studies.get(studies.DEFAULT).grid
assert GRID is not None
ADAM = OptimizerSpec(algorithm="adam", options=(("eps", 1e-3),))
CPU = torch.device("cpu")
TOKENS, VOCABULARY, WIDTH = 16, 12, 16


class Attention(nn.Module):
    """A causal language model of one block: tied nothing, a learned position, a mask that is a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.position = nn.Parameter(torch.randn(TOKENS, WIDTH) / 50)
        self.norm = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY)
        self.register_buffer("future", torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.position
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        scores = (q @ k.transpose(-1, -2) / WIDTH**0.5).masked_fill(self.future, float("-inf"))
        return self.head(x + nn.functional.gelu(scores.softmax(-1) @ v))


class Tokens:
    """Two random sentences a step."""

    def __init__(self, *, seed: int, inits: Sequence[int], device: torch.device) -> None:
        self.seed, self.inits, self.device = seed, inits, device

    def batch(self, step: int) -> Batch:
        drawn = np.stack([words(self.seed, "tokens", init, 2 * TOKENS + 2, step) for init in self.inits])
        tokens = torch.from_numpy((drawn % VOCABULARY).astype(np.int64)).view(-1, 2, TOKENS + 1).to(self.device)
        return Batch(inputs=tokens[:, :, :-1], targets=tokens[:, :, 1:])


def digits(*, seed: int, inits: Sequence[int], device: torch.device) -> SamplesFirst:
    return SamplesFirst(DigitsStream(seed=seed, inits=inits, device=device))


def one_hot(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets)


def layer_norm_mlp(*inner: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(64, 24), nn.LayerNorm(24), nn.GELU(), *inner, nn.Linear(24, 10))


def entry(make: Callable[[], nn.Module], *, name: str = "mine", together: int = 8) -> ModuleNetwork:
    return ModuleNetwork(name=name, make=make, loss=one_hot, stream=digits, together=together)


ATTENTION = ModuleNetwork(name="mine", make=Attention, loss=cross_entropy, stream=Tokens, together=4)
EXAMPLES = {
    "layer-norm": entry(layer_norm_mlp),
    "attention": ATTENTION,
    "batch-norm and dropout": entry(lambda: layer_norm_mlp(nn.BatchNorm1d(24), nn.Dropout(0.25))),
}
examples = pytest.mark.parametrize("network", EXAMPLES.values(), ids=EXAMPLES)
Use = Callable[[ModuleNetwork], None]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Registers a network for a test."""
    return lambda network: monkeypatch.setitem(modules.MODULES, network.name, network)


def spec_of(policy: str, *, network: str = "mine", size: int = 3, inits: int = 3, engine: str = "module") -> RunSpec:
    plan = NetworkInits(network=network, inits=inits, cohort_inits=size, quick_inits=1)
    whole = RunSpec.of("loss-vs-lr", GRID, seed=0, device="cpu", backend="auto", engine=engine)
    return dataclasses.replace(
        whole, networks=(plan,), optimizers=(ADAM,), checkpoints=(1, 2, 6), scales=(0.25, 10.0), policies=(policy,)
    )


def snapshots(engine: Batched | Module, spec: RunSpec) -> Iterator[Snapshot]:
    (cohort,) = spec.cohorts()
    algorithm, base = kernels.get_algorithm("adam"), base_hyperparameters(ADAM, spec.lr)
    hyper = [member.hyperparameters(algorithm, base) for member in spec.family]
    return engine.advance(spec, cohort, get_policy(cohort.key.policy), hyper)


def check(spec: RunSpec) -> None:
    Module().check(spec, get_policy(spec.policies[0]), spec.networks[0])


def pairs(spec: RunSpec) -> pd.DataFrame:
    cohorts = [pd.DataFrame(run_cohort(spec, cohort)) for cohort in spec.cohorts()]
    columns = ["init", "arm", "against", "scale", "step"]
    return pd.concat(cohorts).sort_values(columns).reset_index(drop=True)


@pytest.mark.parametrize("network", ["mlp-6-6-1", "mlp-64-32-10"])
def test_networks_written_by_hand_train_alike(network: str) -> None:
    ours = snapshots(Module(), spec_of("fp32", network=network))
    theirs = snapshots(Batched(), spec_of("fp32", network=network, engine="batched"))
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine.initial, other.initial)
        for name in ("before", "params", "grads", "losses"):
            torch.testing.assert_close(getattr(mine, name), getattr(other, name), rtol=1e-4, atol=1e-6)


@examples
def test_a_model_trains_as_an_ordinary_loop_trains_it(network: ModuleNetwork, use: Use) -> None:
    """Of a family the one with s = 10; batch norm moves its own statistics, dropout has its own masks (p = 0 here)."""
    if "dropout" in next(name for name, each in EXAMPLES.items() if each is network):
        network = entry(lambda: layer_norm_mlp(nn.BatchNorm1d(24)))
    use(network)
    spec = spec_of("fp32")
    last = [*snapshots(Module(), spec)][-1]
    index = next(k for k, member in enumerate(spec.family) if (member.name, member.scale) == ("loss", 10.0))
    model = network.built(0, 1)
    stream = network.stream(seed=0, inits=[1], device=CPU)
    optimizer = torch.optim.Adam(model.parameters(), lr=spec.lr, eps=1e-3)
    for step in range(1, 7):
        batch = stream.batch(step)
        loss = network.loss(model(batch.inputs[0]), batch.targets[0])
        optimizer.zero_grad()
        (10 * loss).backward()
        optimizer.step()
    torch.testing.assert_close(last.losses[len(spec.family) + index], loss.detach(), rtol=1e-4, atol=1e-5)
    expected = nn.utils.parameters_to_vector(model.parameters()).detach()
    torch.testing.assert_close(last.params[len(spec.family) + index], expected, rtol=1e-3, atol=2e-5)


@examples
@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_has_its_formats_and_exact_arms(network: ModuleNetwork, policy: str, use: Use) -> None:
    use(network)
    spec, formats = spec_of(policy, inits=2, size=2), get_policy(policy)
    now = next(snapshots(Module(), spec))
    for role in ("params", "grads"):
        assert getattr(now, role).dtype == kernels.DTYPES[getattr(formats, role)].torch
    assert all(tensor.dtype == kernels.DTYPES[formats.state].torch for tensor in now.state.values())
    found = pairs(spec)
    assert (found["moved"] > 0).all() and not found["nonfinite"].any()
    assert found[found["arm"] == "null"]["identical"].all()
    mapped = found[(found["arm"] == "mapped") & (found["scale"] == 0.25)]
    assert mapped["identical"].all() or not formats.shifts_exactly
    assert not found[found["arm"] == "lr"]["identical"].any()


@examples
def test_pairs_do_not_depend_on_the_cohorts_size(network: ModuleNetwork, use: Use) -> None:
    use(network)
    whole = pairs(spec_of("bf16-mixed", inits=3, size=3))
    for size in (1, 2):
        pd.testing.assert_frame_equal(pairs(spec_of("bf16-mixed", inits=3, size=size)), whole, check_exact=True)


def test_masks_belong_to_seed_init_and_step(use: Use) -> None:
    """The members of a family drop the same; a mask that is applied by hand gives the loss."""
    network = entry(lambda: nn.Sequential(nn.Linear(64, 24), nn.Dropout(0.25), nn.Linear(24, 10)))
    use(network)
    dropout = Dropout(0.25)
    dropout.shapes = [torch.Size((32, 24))]
    among, alone = (
        Masks({"1": dropout}, seed=0, inits=inits, dtype=torch.float32, device=CPU) for inits in (range(3), [1])
    )
    first, second = (among.of(step)["1"][0] for step in (1, 2))
    assert torch.equal(alone.of(1)["1"][0][0], first[1])
    assert not torch.equal(first, second) and not torch.equal(first[0], first[1])
    assert set(first.unique().tolist()) == {0.0, float(np.float32(1 / 0.75))} and abs(first.mean() - 1) < 0.05
    now = next(snapshots(Module(), spec_of("fp32")))
    losses = now.losses.view(3, -1)
    module, batch = network.built(0, 1), network.stream(seed=0, inits=range(3), device=CPU).batch(1)
    expected = one_hot(module[2](module[0](batch.inputs[1]) * first[1]), batch.targets[1]).detach()
    torch.testing.assert_close(losses[1, 0], expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(losses[:, 1], losses[:, 0])  # loss × 0.25 is not in the loss that is recorded


def test_auto_takes_an_engine_that_has_the_network(use: Use) -> None:
    use(EXAMPLES["layer-norm"])
    for policy in POLICIES:
        spec = spec_of(policy, engine="auto")
        assert engine_of(spec, policy, "mine").name == "module"
        assert engine_of(spec, policy, "mlp-64-32-10").name == ("batched" if policy == "fp32" else "module")


class Noisy(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.rand_like(x))


class Remembering(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        self.calls = getattr(self, "calls", 0) + 1
        return super().forward(x) * self.calls


class Branching(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return out if out.sum() > 0 else -out


class Spare(nn.Linear):
    def __init__(self) -> None:
        super().__init__(64, 10)
        self.spare = nn.Parameter(torch.zeros(3))


REFUSED = {
    "noise": (lambda: Noisy(64, 10), "two passes of the same numbers differ"),
    "functional dropout": (
        lambda: nn.Sequential(nn.TransformerEncoderLayer(64, 2, 8), nn.Linear(64, 10)),
        "two passes",
    ),
    "channels": (lambda: nn.Sequential(nn.Linear(64, 10), nn.AlphaDropout()), "its 1 is a AlphaDropout.*nn.Dropout"),
    "memory": (lambda: Remembering(64, 10), "keeps something besides its buffers"),
    "branch": (lambda: Branching(64, 10), "many models at once are too much for it .*data-dependent"),
    "unused": (Spare, "its parameter spare takes no part in the loss"),
    "double": (lambda: nn.Linear(64, 10).double(), "weight is no float32 tensor"),
    "lazy": (lambda: nn.LazyLinear(10), "weight is no float32 tensor of a size"),
    "frozen": (lambda: nn.Linear(64, 10).requires_grad_(False), "no parameter to train"),
    "tuple": (lambda: nn.GRU(64, 10), "its forward returns a tuple"),
}


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_run_is_refused_with_the_reason(make: Callable[[], nn.Module], reason: str, use: Use) -> None:
    use(entry(make))
    with pytest.raises(InputError, match=f"^--network mine: the module engine cannot run it: .*{reason}") as caught:
        check(spec_of("fp32"))
    assert "\n" not in str(caught.value)


def test_buffers_that_forward_changes_or_replaces_move_on(use: Use) -> None:
    class Counting(nn.Linear):
        def __init__(self) -> None:
            super().__init__(64, 10)
            self.register_buffer("seen", torch.zeros(()))
            self.register_buffer("largest", torch.zeros(10))

        def forward(self, x: Tensor) -> Tensor:
            self.seen = self.seen + 1
            out = super().forward(x)
            self.largest.copy_(torch.maximum(self.largest, out.detach().amax(0)))
            return out * self.seen + self.largest

    network = entry(Counting)
    use(network)
    index = 2
    last = [*snapshots(Module(), spec_of("fp32"))][-1]
    model, stream = network.built(0, index), network.stream(seed=0, inits=[index], device=CPU)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, eps=1e-3)
    for step in range(1, 7):
        batch = stream.batch(step)
        loss = network.loss(model(batch.inputs[0]), batch.targets[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(last.losses.view(3, -1)[index, 0], loss.detach(), rtol=1e-4, atol=1e-5)
    assert float(model.seen) == 6


def test_frozen_parameters_and_drawn_buffers_stay_each_familys_own(use: Use) -> None:
    class Random(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("features", torch.randn(64, 16))
            self.frozen = nn.Linear(16, 16).requires_grad_(False)
            self.head = nn.Linear(16, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.frozen(x @ self.features).tanh())

    network = entry(Random)
    use(network)
    first = next(snapshots(Module(), spec_of("fp32")))
    assert first.initial.shape[1] == 170
    batch = network.stream(seed=0, inits=range(3), device=CPU).batch(1)
    families = first.losses.view(3, -1)
    for init in range(3):
        loss = network.loss(network.built(0, init)(batch.inputs[init]), batch.targets[init])
        torch.testing.assert_close(families[init, 0], loss.detach(), rtol=1e-5, atol=1e-6)


def test_equal_models_that_differ_by_their_place_are_refused(use: Use) -> None:
    """The powers of ten numbers a model: those of the last three of a call come after the last whole vector."""

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return (((outputs.mean(0) + 0 * targets.sum()).abs() + 1) ** 2.7).sigmoid().sum()

    network = dataclasses.replace(entry(layer_norm_mlp, together=35), loss=loss)
    use(network)
    with pytest.raises(InputError, match=r"equal models differ in .* by their place among the 35"):
        check(spec_of("fp32"))
    use(dataclasses.replace(network, together=64))
    check(spec_of("fp32"))


class Growing(nn.Module):
    """Another shape, or another tensor, with every model that is made."""

    made = 0

    def __init__(self, what: str) -> None:
        super().__init__()
        Growing.made += 1
        width = 8 + Growing.made * (what == "shape")
        self.hidden, self.out = nn.Linear(64, width, bias=what != "name" or Growing.made % 2 == 0), nn.Linear(width, 10)
        self.register_buffer("scale", torch.ones(1 + Growing.made * (what == "buffer")))
        self.out.bias.requires_grad_(what != "frozen" or Growing.made % 2 == 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.hidden(x).relu() * self.scale.sum())


@pytest.mark.parametrize(
    ("what", "says"),
    [("shape", "hidden.weight"), ("name", "hidden.bias"), ("buffer", "scale"), ("frozen", "out.bias")],
)
def test_models_that_disagree_are_refused_by_name(what: str, says: str, use: Use) -> None:
    use(entry(lambda: Growing(what)))
    with pytest.raises(InputError, match=rf"its models disagree: {says} is .* in model 1; make all alike") as caught:
        check(spec_of("fp32", size=2))
    assert "\n" not in str(caught.value)


class Keeping(nn.Module):
    """Keeps something besides parameters and buffers."""

    def __init__(self, kept: Callable[[], object]) -> None:
        super().__init__()
        self.out = nn.Linear(64, 10)
        self.kept = kept()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x)


@pytest.mark.parametrize(
    ("kept", "alike"),
    [
        (lambda: torch.rand(3), False),
        (lambda: torch.rand(()).item(), False),
        (lambda: {"a": [torch.rand(3).numpy()]}, False),
        (lambda: [nn.Linear(3, 3)], False),
        (lambda: (1, float("nan"), torch.full((3,), float("nan")), np.ones(2)), True),
        (object, True),
        (lambda: _holding_itself(), True),
    ],
    ids=["tensor", "number", "array", "modules in a list", "the same", "anything else", "itself"],
)
def test_what_models_keep_besides_buffers_must_be_alike(kept: Callable[[], object], alike: bool, use: Use) -> None:
    """The first model's would be taken for all."""
    use(entry(lambda: nn.Sequential(Keeping(kept))))
    if alike:
        check(spec_of("fp32", size=2))
        return
    with pytest.raises(InputError, match=r"its models disagree: 0\.kept, which is neither .* in model 1 than"):
        check(spec_of("fp32", size=2))


def _holding_itself() -> list[Any]:
    found: list[Any] = [1]
    found.append(found)
    return found


def test_what_is_registered_may_be_kept_in_a_list_too(use: Use) -> None:
    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(64, 10)
            self.held = [self, self.out, self.out.weight]

        def forward(self, x: Tensor) -> Tensor:
            return self.out(x)

    use(entry(Held))
    check(spec_of("fp32", size=2))


class Odd(nn.Module):
    """Does something that cannot be mapped over models."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.out = nn.Linear(64, 10) if what != "nothing" else nn.ParameterList([torch.zeros(0)])
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("all", torch.zeros(0))
        self.one = torch.ones(64)

    def forward(self, x: Tensor) -> Tensor:
        if self.what == "kind":
            self.seen = self.seen + 0.5
        if self.what == "grows":
            self.all = torch.cat([self.all, x.mean().reshape(1)])
        if self.what == "input":
            x.mul_(2.0)
        return self.out(x[:, :5] if self.what == "shapes" else x * self.one)


@pytest.mark.parametrize(
    ("what", "policy", "says"),
    [
        ("kind", "fp32", r"its buffer seen is \(\) of torch.int64 before a pass and \(\) of torch.float32 after"),
        ("grows", "fp32", r"its buffer all is \(0,\) of torch.float32 before a pass and \(1,\) of"),
        ("input", "fp32", "two passes of the same numbers differ: .* or changes its input"),
        ("shapes", "fp32", r"a pass of one model in torch.float32 fails \(RuntimeError: mat1 and mat2 shapes cannot"),
        ("format", "bf16-true", r"a pass of one model in torch.bfloat16 fails \(RuntimeError: .* the same dtype"),
        ("nothing", "fp32", "it has no parameter to train"),
    ],
)
def test_odd_modules_are_one_line(what: str, policy: str, says: str, use: Use) -> None:
    use(entry(lambda: Odd(what)))
    with pytest.raises(InputError, match=says) as caught:
        check(spec_of(policy))
    assert len(str(caught.value).splitlines()) == 1


def test_parameters_in_any_order_of_memory_and_of_one_number(use: Use) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.factor = nn.Parameter(torch.randn(10, 64).t()), nn.Parameter(torch.tensor(0.5))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight * self.factor

    network = entry(Odd)
    use(network)
    first = next(snapshots(Module(), spec_of("fp32")))
    batch = network.stream(seed=0, inits=range(3), device=CPU).batch(1)
    for init in range(3):
        loss = network.loss(network.built(0, init)(batch.inputs[init]), batch.targets[init])
        torch.testing.assert_close(first.losses.view(3, -1)[init, 0], loss.detach(), rtol=1e-5, atol=1e-6)


def test_a_cohort_too_large_for_memory_says_what_fits(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    use(EXAMPLES["layer-norm"])
    monkeypatch.setattr(memory, "free_bytes", lambda device: 60_000_000)
    check(spec_of("fp32"))
    models = 3000 * len(spec_of("fp32").family)
    says = f"3000 initialisations in a cohort are {models:,} models of 1,858 numbers and take about"
    with pytest.raises(InputError, match=says) as caught:
        check(spec_of("fp32", size=3000))
    fits = int(str(caught.value).rpartition("cohort_inits=")[2])
    assert 3 <= fits < 3000
    check(spec_of("fp32", size=fits))


def test_a_study_runs_in_a_policy_that_its_own_engine_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "loss-vs-lr", "--network", "mlp-64-32-10", "--policy", "bf16-mixed", "--optimizer", "sgd"]
    assert main([*command, "--scale", "4", "--inits", "1", "--steps", "3", "--out", f"{tmp_path}/run"]) == 0
    assert "written to" in capsys.readouterr().out
    assert set(read_summary(tmp_path / "run")["policy"]) == {"bf16-mixed"}
