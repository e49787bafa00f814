"""Small networks as plain records; their gradients written once, elementwise over models, in a stated order.

A model is one lane: every value here is one number of that model, and a layer is a tuple of them. The order of every
sum is part of the definition:

- an output of a Linear layer starts from its bias and takes the products in the order of the inputs, one fused
  multiply-add each;
- what flows back to an input starts from the product with the first output and takes the others in their order;
- a weight's gradient is one product and a bias's is the upstream gradient (there is one sample a step).

Sums are formed in float32 and rounded once to the compute format C; every elementwise operation rounds once to C. The
loss is formed in float32, whatever C is, so a model's loss scale enters as the float32 gradient of its loss.
`network_reference.py` says the same in tensor operations.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import triton
import triton.language as tl

from ..names import check_name, shown
from ..rounding import arithmetic as ops
from ..rounding import elementary
from ..rounding.flags import OPTIMISTIC
from . import network_reference as reference


@dataclass(frozen=True, kw_only=True)
class Head:
    """What follows the last Linear layer.

    Attributes:
        name: in words.
        gradient: Triton function ``gradient(z, labels, loss_scale, C)``: from the tuple of the last layer's outputs to
            the tuple of d(loss_scale · loss)/dz.
        reference: the same for tensors [models, outputs], C a torch dtype.
        loss: from outputs and labels [models, outputs] to the loss [models], not scaled, in float32.
        short: `gradient` with an optimistic pass's quotients, to the same bits; None to use `gradient` there too.
    """

    name: str
    gradient: Any
    reference: Callable[..., Any]
    loss: Callable[..., Any]
    short: Any = None

    def __deepcopy__(self, memo: Any) -> Head:
        """A head is code: a copy has the same."""
        return self

    def __reduce__(self) -> Any:
        """A pickle names it.

        Raises:
            TypeError: for a head of none of `NETWORKS`.
        """
        name = next((name for name, network in NETWORKS.items() if network.head is self), None)
        if name is None:
            raise TypeError(f"head {self.name!r}: a file can name the heads of NETWORKS alone; register its network")
        return _head_of, (name,)


@dataclass(frozen=True, kw_only=True)
class Network:
    """Linear layers with ReLU between them and a head, for one sample a step.

    Attributes:
        name: in the registry.
        widths: features of the input and of every layer's output.
        head: from the last layer's outputs to the loss.
        squares_input: whether the first layer sees the input squared.

    Raises:
        TypeError: for a head that is none.
        ValueError: for widths that are not two or more whole numbers from 1 on.
    """

    name: str
    widths: tuple[int, ...]
    head: Head
    squares_input: bool = False

    def __post_init__(self) -> None:
        widths: Any = self.widths
        whole = isinstance(widths, tuple) and all(type(width) is int and width > 0 for width in widths)
        if not whole or len(widths) < 2:
            raise ValueError(f"widths: {shown(widths)}; give a tuple of two or more whole numbers from 1 on")
        if not isinstance(self.head, Head):
            raise TypeError(f"head: {shown(self.head)}; give a Head, such as that of NETWORKS['mlp-6-6-1']")

    @property
    def starts(self) -> tuple[int, ...]:
        """Where each layer's parameters start in a model's: weight [outputs, inputs] row by row, then bias."""
        sizes = ((inputs + 1) * outputs for inputs, outputs in itertools.pairwise(self.widths))
        return tuple(itertools.accumulate(sizes, initial=0))[:-1]

    @property
    def parameters(self) -> int:
        """n, the number of parameters of one model."""
        return self.starts[-1] + (self.widths[-2] + 1) * self.widths[-1]

    @property
    def features(self) -> int:
        """Numbers of one sample: inputs, then labels."""
        return self.widths[0] + self.widths[-1]

    def constants(self) -> dict[str, object]:
        """Compile-time arguments of the functions below."""
        return {
            "WIDTHS": self.widths,
            "STARTS": self.starts,
            "SQUARED": self.squares_input,
            "HEAD": self.head.gradient,
        }


@triton.jit
def first_inputs(x, WIDTH: tl.constexpr, SQUARED: tl.constexpr, C: tl.constexpr):
    """What the first layer sees: the inputs in the compute format, squared there if the network says so."""
    a = ()
    for i in tl.static_range(WIDTH):
        v = ops.round_to(x[i], C)
        if SQUARED:
            a = a + (ops.round_to(v * v, C),)
        else:
            a = a + (v,)
    return a


@triton.jit
def linear(p, x, START: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, C: tl.constexpr):
    """The layer's outputs."""
    z = ()
    for o in tl.static_range(OUTPUTS):
        total = p[START + INPUTS * OUTPUTS + o]
        for i in tl.static_range(INPUTS):
            total = tl.fma(p[START + o * INPUTS + i], x[i], total)
        z = z + (ops.round_to(total, C),)
    return z


@triton.jit
def relu(z, WIDTH: tl.constexpr):
    """0 where z <= 0; NaN passes."""
    h = ()
    for k in tl.static_range(WIDTH):
        h = h + (tl.where(z[k] <= 0.0, 0.0, z[k]),)
    return h


@triton.jit
def below(p, delta, h, START: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, C: tl.constexpr):
    """The gradient of the layer's inputs before their ReLU; it passes unless the activation is <= 0."""
    passed = ()
    for i in tl.static_range(INPUTS):
        total = delta[0] * p[START + i]
        for o in tl.static_range(1, OUTPUTS):
            total = tl.fma(delta[o], p[START + o * INPUTS + i], total)
        passed = passed + (tl.where(h[i] <= 0.0, 0.0, ops.round_to(total, C)),)
    return passed


@triton.jit
def forward_backward(
    p,
    x,
    loss_scale,
    WIDTHS: tl.constexpr,
    STARTS: tl.constexpr,
    SQUARED: tl.constexpr,
    HEAD: tl.constexpr,
    C: tl.constexpr,
):
    """What every gradient of loss_scale · loss is a product of: each layer's inputs and the gradients of its outputs.

    ``p`` are a model's parameters in format C, ``x`` its inputs and labels; both results are tuples of tuples.
    """
    layers: tl.constexpr = len(WIDTHS) - 1
    inputs = (first_inputs(x, WIDTHS[0], SQUARED, C),)
    for k in tl.static_range(layers - 1):
        z = linear(p, inputs[k], STARTS[k], WIDTHS[k], WIDTHS[k + 1], C)
        inputs = inputs + (relu(z, WIDTHS[k + 1]),)
    z = linear(p, inputs[layers - 1], STARTS[layers - 1], WIDTHS[layers - 1], WIDTHS[layers], C)
    deltas = (HEAD(z, x[WIDTHS[0] :], loss_scale, C),)
    for k in tl.static_range(layers - 1):
        deltas = (
            below(
                p,
                deltas[0],
                inputs[layers - 1 - k],
                STARTS[layers - 1 - k],
                WIDTHS[layers - 1 - k],
                WIDTHS[layers - k],
                C,
            ),
        ) + deltas
    return inputs, deltas


@triton.jit
def gradient(inputs, deltas, LAYER: tl.constexpr, PLACE: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr,
             C: tl.constexpr):  # fmt: skip
    """The gradient of one parameter of a layer, by its place there: weights row by row, then biases."""
    if PLACE < INPUTS * OUTPUTS:
        return ops.round_to(deltas[LAYER][PLACE // INPUTS] * inputs[LAYER][PLACE % INPUTS], C)
    else:
        return deltas[LAYER][PLACE - INPUTS * OUTPUTS]


@triton.jit
def _exp_sigmoid_gradient(z, loss_scale, C: tl.constexpr, MODE: tl.constexpr):
    s = ops.round_to(elementary.sigmoid(z[0], MODE), C)
    e = ops.round_to(elementary.exp(s), C)
    d = ops.round_to(ops.negate(loss_scale) * e, C)
    d = ops.round_to(d * ops.round_to(1.0 - s, C), C)
    return (ops.round_to(d * s, C),)


@triton.jit
def exp_sigmoid_gradient(z, labels, loss_scale, C: tl.constexpr):
    """d/dz of loss_scale · (label - exp(sigmoid(z))); the products associate as autograd's do."""
    return _exp_sigmoid_gradient(z, loss_scale, C, 0)


@triton.jit
def exp_sigmoid_gradient_short(z, labels, loss_scale, C: tl.constexpr):
    """The same without a branch."""
    return _exp_sigmoid_gradient(z, loss_scale, C, OPTIMISTIC)


EXP_SIGMOID: Final = Head(
    name="label - exp(sigmoid(z))",
    gradient=exp_sigmoid_gradient,
    short=exp_sigmoid_gradient_short,
    reference=reference.exp_sigmoid_gradient,
    loss=reference.exp_sigmoid_loss,
)

NETWORKS: Final[Mapping[str, Network]] = {
    network.name: network
    for network in (Network(name="mlp-6-6-1", widths=(6, 6, 1), head=EXP_SIGMOID, squares_input=True),)
}
"""Every network that the trainer knows, by name."""


def _head_of(network: str) -> Head:
    return get_network(network).head


def get_network(network: str | Network) -> Network:
    """A network as it is, or the one of that name.

    Raises:
        TypeError: for what is neither.
        ValueError: if there is none.
    """
    if isinstance(network, Network):
        return network
    remedy = f"choose one of {', '.join(NETWORKS)}"
    check_name("network", network, f"{remedy}, or give a Network")
    if network not in NETWORKS:
        raise ValueError(f"network {network!r}: no such network; {remedy}")
    return NETWORKS[network]
