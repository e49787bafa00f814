"""The batched networks against torch.nn and autograd, and what exactness asks of them."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kernels import MinibatchLinear
from kernels.backends import simd
from lossscale.models import data
from lossscale.models import networks as models
from lossscale.models.data import DigitsStream, UniformStream, permutation, uniforms
from lossscale.models.linear import BatchedLinear, linear
from lossscale.models.networks import NETWORKS, Network, elementwise, get_network, products_key
from lossscale.support.errors import InputError

CPU = torch.device("cpu")
networks = pytest.mark.parametrize("network", NETWORKS.values(), ids=lambda network: network.name)


@pytest.fixture(params=["chosen products", "torch.bmm"])
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is chosen here, and what is where vector code cannot be made."""
    if request.param == "torch.bmm":
        monkeypatch.setattr(models, "linear", lambda inputs, outputs, start, *_: BatchedLinear(inputs, outputs, start))


def torch_loss(network: Network, module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of one model as its users write it; inputs [samples, features], targets [samples, outputs]."""
    if network.name == "mlp-6-6-1":
        return (targets - module(inputs**2).sigmoid().exp()).sum()
    return nn.functional.cross_entropy(module(inputs), targets.argmax(1))


def module_of(network: Network, params: Tensor) -> nn.Sequential:
    linears = [nn.Linear(*widths) for widths in itertools.pairwise(network.widths)]
    module = nn.Sequential(linears[0], nn.ReLU(), linears[1])
    nn.utils.vector_to_parameters(params, module.parameters())
    return module


def term_magnitudes(network: Network, module: nn.Sequential, inputs: Tensor, targets: Tensor) -> Tensor:
    """[n] float64: of every gradient the sum of the magnitudes of its terms, over paths and samples.

    A sum is rounded relative to what is added, not to what is left of it: this is the size that rounding is measured
    in. A hidden unit counts with the magnitudes of its own terms, and what flows back from the loss with those of the
    output, whose rounding goes through an exponential.
    """
    first, _, last = module.double()
    x = (inputs**2 if network.name == "mlp-6-6-1" else inputs).double()
    z = first(x)
    hidden = z.relu()
    out = last(hidden).detach().requires_grad_()
    if network.name == "mlp-6-6-1":
        value = out.sigmoid()
        upstream = (value.exp() * (1 - value) * value).abs()
    else:
        probabilities = out.softmax(1)
        upstream = (probabilities + targets.double()) / len(x)
    reached = (x.abs() @ first.weight.abs().T + first.bias.abs()) * (z > 0)
    upstream = upstream * (1 + reached @ last.weight.abs().T + last.bias.abs())
    below = (upstream @ last.weight.abs()) * (z > 0)
    parts = (below.T @ x.abs(), below.sum(0), upstream.T @ reached, upstream.sum(0))
    module.float()
    return torch.cat([part.detach().flatten() for part in parts])


ROUNDING = 1.95 * 2.0**-24
"""How far a gradient may lie from autograd's, in its sum of term magnitudes: one order of additions beside another."""


@pytest.mark.usefixtures("products")
@networks
def test_gradient_and_loss_are_those_of_autograd(network: Network) -> None:
    inits, arms = range(5, 8), 3
    initial = network.initial(1, inits)
    params = initial.repeat_interleave(arms, 0)
    scale = torch.tensor([1.0, 100.0, 0.1]).repeat(len(inits))
    stream = network.stream(seed=1, inits=inits, device=CPU)
    for step in (1, 2, 70):
        batch = stream.batch(step)
        grads = torch.full_like(params, torch.nan)
        network.gradients(params, batch, scale, grads)
        losses = network.losses(params, batch)
        for model in range(len(params)):
            module = module_of(network, params[model])
            family = model // arms
            loss = torch_loss(network, module, batch.inputs[family].T, batch.targets[family].T)
            (loss * scale[model]).backward()
            expected = nn.utils.parameters_to_vector([p.grad for p in module.parameters()])
            terms = term_magnitudes(network, module, batch.inputs[family].T, batch.targets[family].T)
            off = (grads[model].double() - expected.double()).abs()
            assert (off <= ROUNDING * float(scale[model]) * terms).all(), (off / terms).max() / 2.0**-24
            torch.testing.assert_close(losses[model], loss.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("products")
@networks
@pytest.mark.parametrize("arms", [2, 5, 42])
def test_a_scaled_loss_scales_every_gradient_exactly(network: Network, arms: int) -> None:
    # Model counts that fill no whole vectors: a model's bits must not depend on its place.
    inits = range(3)
    params = network.initial(0, inits).repeat_interleave(arms, 0)
    exponents = [(0, 4, -12, 1, 12)[arm % 5] for arm in range(arms)]
    scale = torch.tensor([2.0**k for k in exponents])
    grads = torch.empty_like(params)
    network.gradients(params, network.stream(seed=0, inits=inits, device=CPU).batch(1), scale.repeat(3), grads)
    families = grads.view(3, arms, -1)
    assert torch.equal(families, families[:, :1] * scale.view(1, -1, 1))
    assert (families != 0).any()


@pytest.mark.usefixtures("products")
@networks
def test_equal_models_have_equal_losses(network: Network) -> None:
    params = network.initial(0, range(3)).repeat_interleave(7, 0)
    losses = network.losses(params, network.stream(seed=0, inits=range(3), device=CPU).batch(1)).view(3, 7)
    assert torch.equal(losses, losses[:, :1].expand(3, 7))


@pytest.mark.skipif(bool(simd.unavailable()), reason=f"no simd backend: {simd.unavailable()}")
def test_vector_code_computes_what_has_whole_vectors() -> None:
    assert isinstance(linear(64, 32, 0, 32, CPU), MinibatchLinear)
    assert isinstance(linear(6, 6, 0, 1, CPU), BatchedLinear)
    assert isinstance(linear(64, 32, 0, 31, CPU), BatchedLinear)


def test_what_forms_products_belongs_to_the_bits_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert products_key(["mlp-6-6-1", "char-transformer"], "cpu") == {}
    for backend, named in (("simd", ""), ("reference", "torch.bmm")):
        monkeypatch.setattr(models.kernels, "resolve_backend", lambda *_, backend=backend: backend)
        assert products_key(["mlp-6-6-1", "mlp-64-32-10"], "cpu") == {"products": named}
    assert products_key(["mlp-64-32-10"], "cuda") == {"products": ""}


@pytest.mark.skipif(bool(simd.unavailable()), reason=f"no simd backend: {simd.unavailable()}")
def test_gradients_do_not_depend_on_what_is_formed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    network = get_network("mlp-64-32-10")
    params = network.initial(0, range(5)).repeat_interleave(3, 0)
    batch, scale = network.stream(seed=0, inits=range(5), device=CPU).batch(1), torch.ones(15)
    found = []
    for together in (1, 6, 256):
        monkeypatch.setattr(models, "_TOGETHER", together)
        found.append(torch.full_like(params, torch.nan))
        network.gradients(params, batch, scale, found[-1])
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@networks
def test_initial_parameters_are_distributed_as_in_torch(network: Network) -> None:
    drawn = network.initial(0, range(400))
    assert drawn.shape == (400, network.parameters) and drawn.dtype == torch.float32
    for layer in network.layers:
        bound = layer.inputs**-0.5
        for part in (drawn[:, layer.weight], drawn[:, layer.bias]):
            assert part.abs().max() <= bound
            assert part.abs().max() > 0.98 * bound
            assert abs(part.mean()) < 0.05 * bound
    modules = [nn.Linear(*widths) for widths in itertools.pairwise(network.widths)]
    assert network.parameters == sum(p.numel() for module in modules for p in module.parameters())


@networks
def test_draws_belong_to_seed_and_init(network: Network) -> None:
    alone, among = network.initial(3, [7]), network.initial(3, [2, 7, 9])
    assert torch.equal(alone[0], among[1])
    assert not torch.equal(alone[0], network.initial(4, [7])[0])
    assert not torch.equal(among[0], among[1])


@networks
def test_data_belong_to_seed_init_and_step(network: Network) -> None:
    among = network.stream(seed=3, inits=[2, 7], device=CPU)
    alone = network.stream(seed=3, inits=[7], device=CPU)
    for step in (200, 1, 64, 65):  # in any order
        first, second = among.batch(step), alone.batch(step)
        assert torch.equal(first.inputs[1], second.inputs[0])
        assert torch.equal(first.targets[1], second.targets[0])
        assert not torch.equal(first.inputs[0], first.inputs[1])
    assert not torch.equal(alone.batch(1).inputs, alone.batch(2).inputs)


def test_uniform_stream_is_in_the_unit_interval() -> None:
    stream = UniformStream(features=6, seed=0, inits=range(10), device=CPU)
    batches = [stream.batch(step) for step in range(1, 101)]
    inputs = torch.stack([batch.inputs for batch in batches])
    labels = torch.stack([batch.targets for batch in batches])
    assert inputs.shape == (100, 10, 6, 1) and labels.shape == (100, 10, 1, 1)
    assert inputs.min() >= 0 and inputs.max() < 1
    assert abs(inputs.mean() - 0.5) < 0.02 and abs(labels.mean() - 0.5) < 0.04


def test_digits_stream_takes_each_sample_once_an_epoch() -> None:
    stream = DigitsStream(seed=0, inits=[4], device=CPU)
    epoch = torch.cat([stream.batch(step).inputs[0].T for step in range(1, 57)])
    assert epoch.shape == (56 * 32, 64)
    assert epoch.min() >= 0 and epoch.max() == 1
    assert len(epoch.unique(dim=0)) == 56 * 32
    assert torch.equal(stream.batch(57).inputs, stream.batch(1).inputs)
    assert torch.equal(stream.batch(3).targets.sum(1), torch.ones(1, 32))


def test_known_draws() -> None:
    # Fixed for good: another numpy or another machine must not change what a seed means.
    assert (uniforms(0, "initial", [0, 1], 2) * 2**24).tolist() == [[4319377, 3084636], [7038311, 14445840]]
    assert permutation(0, "order", 0, 6).tolist() == [1, 5, 3, 0, 4, 2]


def test_elementwise_does_not_depend_on_the_place() -> None:
    x = torch.linspace(-3, 3, 37)
    whole = elementwise(torch.sigmoid, x)
    assert torch.equal(whole, torch.cat([elementwise(torch.sigmoid, part) for part in x.split(5)]))


def test_unknown_network() -> None:
    with pytest.raises(InputError, match="mlp-6-6-1"):
        get_network("mlp-6-6")


def test_digits_are_scikit_learns_with_and_without_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.datasets import load_digits

    loaded = load_digits()
    by_file = data._digits_table()
    monkeypatch.setattr(data.Path, "is_file", lambda path: False)
    for table in (by_file, data._digits_table()):
        np.testing.assert_array_equal(table[:, :-1], loaded.data)
        np.testing.assert_array_equal(table[:, -1], loaded.target)
