"""Products of a layer and a minibatch: vector code has the reference's bits, whatever else is computed with them."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from avx2 import output_on_avx2
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from kernels import MinibatchLinear, bits
from kernels.backends import simd
from kernels.launch.checks import check_tensor

runs_code = pytest.mark.skipif(bool(simd.unavailable()), reason=f"no simd backend: {simd.unavailable()}")

SIZES = [(64, 32, 32), (32, 10, 32), (16, 1, 16), (48, 7, 48), (16, 13, 80)]
"""Inputs, outputs, samples."""
BROKEN = (math.nan, math.inf, -math.inf, 3e38, -0.0, 1e-44)


def everything(
    sizes: tuple[int, int, int],
    backend: str,
    *,
    families: int = 3,
    arms: int = 2,
    turned: bool = False,
    broken: bool = False,
) -> list[Tensor]:
    """Outputs, gradients and what flows back, of random models."""
    inputs, outputs, samples = sizes
    generator = torch.Generator().manual_seed(inputs + outputs)
    start, models = 5, families * arms
    params = torch.randn(models, start + (inputs + 1) * outputs + 3, generator=generator)
    x = torch.randn(families, samples, inputs, generator=generator).transpose(1, 2)
    upstream = torch.randn(models, outputs, samples, generator=generator)
    activation = torch.randn(models, inputs, samples, generator=generator).relu()
    if broken:
        for number, tensor in itertools.product(range(60), (params, x, upstream, activation)):
            place = tuple(int(torch.randint(size, (), generator=generator)) for size in tensor.shape)
            tensor[place] = BROKEN[number % len(BROKEN)]
    layer = MinibatchLinear(*sizes, start=start, backend=backend)
    x = x if turned else x.contiguous()
    grads = torch.full_like(params, 7.0)
    layer.gradients(upstream, x, grads)
    outcomes = [layer.forward(params, x, relu=relu) for relu in (False, True)]
    return [*outcomes, grads, layer.below(params, upstream, activation)]


@runs_code
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("turned", [False, True])
def test_vector_code_has_the_bits_of_the_reference(sizes: tuple[int, int, int], turned: bool) -> None:
    for broken in (False, True):
        for found, expected in zip(
            everything(sizes, "simd", turned=turned, broken=broken),
            everything(sizes, "reference", turned=turned, broken=broken),
            strict=True,
        ):
            assert bits.report(found, expected) is None


@runs_code
def test_avx2_has_the_same_bits() -> None:
    code = (
        "from test_linear import *\n"
        "for sizes in SIZES: test_vector_code_has_the_bits_of_the_reference(sizes, True)\n"
        "print(simd.vector_registers(16))"
    )
    assert output_on_avx2(code) == "8\n"


@runs_code
def test_inputs_larger_than_a_stack() -> None:
    inputs, samples = 2048, 1152
    x, params, upstream = torch.randn(1, inputs, samples), torch.randn(1, inputs + 1), torch.randn(1, 1, samples)
    turned = x.transpose(1, 2).contiguous().transpose(1, 2)
    layer = MinibatchLinear(inputs, 1, samples, backend="simd")
    grads, others = torch.zeros_like(params), torch.zeros_like(params)
    layer.gradients(upstream, x, grads)
    layer.gradients(upstream, turned, others)
    assert bits.report(grads, others) is None
    forward = layer.forward(params, x, relu=False)
    assert bits.report(layer.forward(params, turned, relu=False), forward) is None


@runs_code
def test_a_model_alone_has_the_same_bits() -> None:
    sizes, start = (64, 32, 32), 0
    layer = MinibatchLinear(*sizes, start=start, backend="simd")
    params, x = torch.randn(6, 65 * 32), torch.rand(3, 64, 32)
    upstream = torch.randn(6, 32, 32)
    together, grads = layer.forward(params, x, relu=True), torch.empty_like(params)
    layer.gradients(upstream, x, grads)
    for model in range(6):
        own, family = params[model : model + 1].clone(), x[model // 2 : model // 2 + 1].clone()
        alone, gradient = layer.forward(own, family, relu=True), torch.empty_like(own)
        layer.gradients(upstream[model : model + 1], family, gradient)
        assert bits.report(alone[0], together[model]) is None and bits.report(gradient[0], grads[model]) is None


@pytest.mark.parametrize("backend", ["reference", pytest.param("simd", marks=runs_code)])
def test_a_power_of_two_passes_through_exactly(backend: str) -> None:
    layer = MinibatchLinear(64, 32, 32, backend=backend)
    params, x, upstream = torch.randn(4, 65 * 32), torch.rand(4, 64, 32), torch.randn(4, 32, 32)
    plain, scaled = torch.empty_like(params), torch.empty_like(params)
    layer.gradients(upstream, x, plain)
    layer.gradients(upstream * 2.0**-9, x, scaled)
    assert bits.report(scaled, plain * 2.0**-9) is None
    below = layer.below(params, upstream, x)
    assert bits.report(layer.below(params, upstream * 2.0**-9, x), below * 2.0**-9) is None


def test_the_reference_is_a_linear_layer() -> None:
    layer = MinibatchLinear(64, 32, 32, backend="reference")
    params, x, upstream = torch.randn(1, 65 * 32), torch.rand(1, 64, 32), torch.randn(1, 32, 32)
    module, inputs = torch.nn.Linear(64, 32).double(), x[0].T.double().requires_grad_()
    torch.nn.utils.vector_to_parameters(params[0].double(), module.parameters())
    outputs = module(inputs)
    outputs.backward(upstream[0].T.double())
    grads = torch.empty_like(params)
    layer.gradients(upstream, x, grads)
    assert module.weight.grad is not None and module.bias.grad is not None and inputs.grad is not None
    expected = torch.cat([module.weight.grad.flatten(), module.bias.grad])
    torch.testing.assert_close(grads[0].double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        layer.forward(params, x, relu=False)[0].T.double(), outputs.detach(), rtol=1e-5, atol=1e-5
    )
    below = layer.below(params, upstream, torch.ones_like(x))[0].T.double()
    torch.testing.assert_close(below, inputs.grad, rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    for sizes, message in (((60, 1, 16), "inputs 60"), ((16, 1, 8), "samples 8"), ((16, 0, 16), "outputs 0")):
        with pytest.raises(ValueError, match=message):
            MinibatchLinear(*sizes)
    with pytest.raises(ValueError, match="backend 'triton': has no products of a layer; choose 'simd' or 'reference'"):
        MinibatchLinear(16, 1, 16, backend="triton")
    layer = MinibatchLinear(16, 2, 16, backend="reference")
    params, x, upstream = torch.randn(4, 34), torch.rand(2, 16, 16), torch.randn(4, 2, 16)
    for arguments, message in (
        ((params[:, :33], x), r"params of shape \(4, 33\).*tensor \(4, 34\)"),
        ((params.double(), x), "params of .*float64"),
        ((params, x[:, :15]), r"x of shape \(2, 15, 16\)"),
        ((params, torch.rand(2, 16, 32)[:, :, ::2]), r"x of shape \(2, 16, 16\), strides \(512, 32, 2\)"),
        ((params, torch.rand(3, 16, 16)), "x of 3 families for 4 models"),
        ((params, torch.rand(0, 16, 16)), "x of 0 families for 4 models"),
    ):
        with pytest.raises(ValueError, match=message):
            layer.forward(*arguments, relu=True)
    with pytest.raises(ValueError, match=r"upstream of shape \(3, 2, 16\)"):
        layer.gradients(upstream[:3], x, params)
    with pytest.raises(ValueError, match=r"activation of shape \(4, 16, 15\)"):
        layer.below(params, upstream, torch.rand(4, 16, 15))


@pytest.mark.parametrize("backend", ["reference", pytest.param("simd", marks=runs_code)])
def test_what_has_no_memory_to_give_is_refused(backend: str) -> None:
    layer = MinibatchLinear(16, 2, 16, backend=backend)
    shapes = {"params": (2, 34), "x": (2, 16, 16), "upstream": (2, 2, 16), "activation": (2, 16, 16), "out": (2, 34)}

    def call(**given: Tensor) -> None:
        some = {name: given.get(name, torch.zeros(shape)) for name, shape in shapes.items()}
        layer.gradients(some["upstream"], some["x"], some["out"])
        layer.forward(some["params"], some["x"], relu=True)
        layer.below(some["params"], some["upstream"], some["activation"])

    call()
    for name, shape in shapes.items():
        freed, shrunk = torch.zeros(shape), torch.zeros(shape)
        freed.untyped_storage().resize_(0)
        shrunk.untyped_storage().resize_(64)
        with FakeTensorMode():
            fake = torch.zeros(shape)
        negated = torch._neg_view(torch.ones(shape))
        nothing = torch._efficientzerotensor(shape)
        for tensor, error, message in (
            (freed, ValueError, "its storage was freed"),
            (shrunk, ValueError, "its storage was freed or is too small"),
            (fake, TypeError, "a FakeTensor, which has no memory"),
            (negated, TypeError, "its elements are negated"),
            (nothing, TypeError, "which has no memory"),
            (torch.zeros(shape, device="meta"), ValueError, "on meta"),
            (torch.zeros(shape).to_sparse(), TypeError, "layout torch.sparse_coo"),
            (torch.zeros(shape, dtype=torch.complex64), TypeError, "complex64"),
            (torch.tensor(1.0), ValueError, "of shape"),
            (None, TypeError, "a NoneType, no tensor"),
        ):
            with pytest.raises(error, match=rf"^{name}\b.*{message}"):
                call(**{name: tensor})


@pytest.mark.parametrize("backend", ["reference", pytest.param("simd", marks=runs_code)])
def test_transforms_of_functions_are_refused(backend: str) -> None:
    layer = MinibatchLinear(16, 2, 16, backend=backend)
    params, x = torch.ones(1, 34), torch.ones(1, 16, 16)

    def outputs(params: Tensor) -> Tensor:
        return layer.forward(params, x, relu=True)

    for transformed in (torch.func.vmap(outputs), torch.func.jacrev(outputs)):
        with pytest.raises(TypeError, match=r"^params: a Tensor, which has no memory of its own"):
            transformed(params)


@pytest.mark.filterwarnings("error:.*builtin.*functorch")
def test_checks_within_compiled_code_warn_of_nothing() -> None:
    def checked() -> Tensor:
        check_tensor(tensor, "tensor", "give another")
        return tensor + 1

    tensor = torch.ones(2)
    assert torch.equal(torch.compile(checked, backend="eager")(), tensor + 1)


@pytest.mark.parametrize("backend", ["reference", pytest.param("simd", marks=runs_code)])
def test_autograd_is_told_or_refused(backend: str) -> None:
    layer = MinibatchLinear(16, 2, 16, backend=backend)
    params, x, upstream, out = torch.ones(2, 34), torch.ones(2, 16, 16), torch.ones(2, 2, 16), torch.zeros(2, 34)
    version = out._version
    layer.gradients(upstream, x, out)
    assert out._version > version
    with torch.inference_mode():
        inference = torch.zeros(2, 34)
        layer.gradients(upstream, x, inference)
    assert torch.equal(inference, out)
    with pytest.raises(ValueError, match="out made in inference mode"):
        layer.gradients(upstream, x, inference)
    for tensor, name in ((params, "params"), (x, "x"), (upstream, "upstream"), (out, "out")):
        tensor.requires_grad_()
        with pytest.raises(RuntimeError, match=rf"^{name} requires grad.*give {name}\.detach\(\)"):
            layer.forward(params, x, relu=True) if name in ("params", "x") else layer.gradients(upstream, x, out)
        with torch.no_grad():
            layer.gradients(upstream, x, out)
            assert not layer.forward(params, x, relu=True).requires_grad
        tensor.requires_grad_(False)


@pytest.mark.parametrize("backend", ["reference", pytest.param("simd", marks=runs_code)])
def test_what_is_read_is_not_written(backend: str) -> None:
    layer = MinibatchLinear(16, 2, 16, backend=backend)
    memory = torch.ones(2000)
    x, upstream = memory[:512].view(2, 16, 16), memory[512:576].view(2, 2, 16)
    layer.gradients(upstream, x, memory[576:644].view(2, 34))
    for begin, name in ((575, "upstream"), (511, "x")):
        with pytest.raises(ValueError, match=f"out shares memory with {name}"):
            layer.gradients(upstream if name == "upstream" else upstream.clone(), x, memory[begin:][:68].view(2, 34))


def test_sizes_are_integers() -> None:
    for bad in (16.0, True, "16", None):
        for name in ("inputs", "outputs", "samples", "start"):
            sizes: dict[str, Any] = {"inputs": 16, "outputs": 16, "samples": 16, "start": 0, name: bad}
            with pytest.raises(TypeError, match=f"^{name}: {bad!r} is no integer"):
                MinibatchLinear(**sizes)
    assert MinibatchLinear(np.int64(16), 2, 16).forward(torch.ones(1, 34), torch.ones(1, 16, 16), relu=True).sum() == (
        2 * 16 * 17
    )


def test_no_models() -> None:
    layer = MinibatchLinear(16, 2, 16)
    assert layer.forward(torch.empty(0, 34), torch.empty(0, 16, 16), relu=True).shape == (0, 2, 16)
