"""A Linear layer of every model of a population on a minibatch: forward and backward, in a stated order."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from ..backends.dispatch import resolve_backend
from ..launch.checks import NUMBERS, bytes_spanned, check_tensor
from . import linear_reference as reference
from . import linear_simd as vectors


class MinibatchLinear:
    """The products of a Linear layer with weight [outputs, inputs] and, after it, bias [outputs], for many models.

    A sum is taken in the order of its index, one fused multiply-add for each term: an output begins with its bias and
    takes the inputs; a weight's gradient takes the samples; what flows back takes the outputs. A bias's gradient adds
    samples that are 16 apart in their order, then those 16 in halves. So bits depend on neither the machine nor the
    other models, and a loss multiplied by a power of two multiplies every gradient by it.

    Autograd does not differentiate these products: while it records, no tensor given may require grad.

    Args:
        inputs, outputs, samples: sizes; inputs and samples are multiples of 16.
        start: where the weight begins in a model's parameters.
        backend: ``auto`` (``simd``, or ``reference`` where that is missing), ``simd`` (a CPU; the calling thread
            alone), or ``reference``.

    Raises:
        TypeError: for a size or start that is no integer.
        ValueError: for other sizes, and a backend without such products.
    """

    independent = True
    """A model's bits do not depend on how many others are computed with it."""

    def __init__(self, inputs: int, outputs: int, samples: int, *, start: int = 0, backend: str = "auto") -> None:
        inputs, outputs = _integer("inputs", inputs), _integer("outputs", outputs)
        samples, start = _integer("samples", samples), _integer("start", start)
        for name, size in (("inputs", inputs), ("samples", samples)):
            if size <= 0 or size % vectors.WIDTH:
                raise ValueError(f"{name} {size}: give a multiple of {vectors.WIDTH}")
        if outputs <= 0 or start < 0:
            raise ValueError(f"outputs {outputs}, start {start}: give at least one output, and no negative start")
        if backend not in ("auto", "simd", "reference"):
            raise ValueError(f"backend {backend!r}: has no products of a layer; choose 'simd' or 'reference'")
        self.backend = resolve_backend(backend, torch.device("cpu"))
        self._sizes = vectors.Sizes(inputs=inputs, outputs=outputs, samples=samples)
        self._start, self._bias = start, start + inputs * outputs
        self._end = self._bias + outputs

    @staticmethod
    def fits(inputs: int, samples: int) -> bool:
        """Whether there are such products of these sizes."""
        return min(inputs, samples) > 0 and inputs % vectors.WIDTH == samples % vectors.WIDTH == 0

    def forward(self, params: Tensor, x: Tensor, *, relu: bool) -> Tensor:
        """Outputs [models, outputs, samples], with ``relu`` 0 where they are at most 0 (NaN passes).

        Args:
            params: [models, n] float32, contiguous.
            x: [families, inputs, samples] float32, contiguous or a transposed view of a contiguous tensor; models are a
                multiple of families, those of one next to each other.
            relu: whether activations are wanted.

        Raises:
            TypeError: for what is no tensor, or one without memory of its own (fake, sparse, negated, wrapped).
            ValueError: for tensors of another shape, dtype, layout or device, and memory that was freed.
            RuntimeError: for a tensor that requires grad, while autograd records.
        """
        models = self._models("params", params)
        arms = self._arms(x, models)
        if self.backend == "reference":
            return reference.forward(*self._parts(params), x.repeat_interleave(arms, 0), relu=relu)
        y = params.new_empty(models, self._sizes.outputs, self._sizes.samples)
        turned = not x.is_contiguous()
        buffer = self._buffer(needed=turned)
        run = vectors.forward(self._sizes, relu=relu, turned=turned)
        run(self._at(params), x.data_ptr(), y.data_ptr(), buffer.data_ptr(), models, params.shape[1], arms)
        return y

    def gradients(self, upstream: Tensor, x: Tensor, out: Tensor) -> None:
        """Write the gradients of the weight and the bias to their places in ``out`` [models, n].

        Args:
            upstream: [models, outputs, samples] float32, contiguous: the loss's derivative by the outputs.
            x: as `forward` had it.
            out: float32, contiguous, of memory that neither upstream nor x has.

        Raises:
            TypeError: for what is no tensor, or one without memory of its own (fake, sparse, negated, wrapped).
            ValueError: for tensors of another shape, dtype, layout or device, memory that was freed, and an ``out``
                made in inference mode, outside of it.
            RuntimeError: for a tensor that requires grad, while autograd records.
        """
        models = self._models("out", out, written=True)
        arms = self._arms(x, models)
        self._check("upstream", upstream, (models, self._sizes.outputs, self._sizes.samples))
        for name, tensor in (("upstream", upstream), ("x", x)):
            if _share_memory(out, tensor):
                raise ValueError(f"out shares memory with {name}, which is read while it is written; give another one")
        if self.backend == "reference":
            found = reference.weight_gradient(upstream, x.repeat_interleave(arms, 0))
            out[:, self._start : self._bias] = found.flatten(1)
            out[:, self._bias : self._end] = reference.bias_gradient(upstream)
            return
        turned = not x.is_contiguous()
        buffer = self._buffer(needed=not turned)
        run = vectors.gradient(self._sizes, turned=turned)
        run(upstream.data_ptr(), x.data_ptr(), self._at(out), buffer.data_ptr(), models, out.shape[1], arms)
        if not out.is_inference():
            increment_version(out)

    def below(self, params: Tensor, upstream: Tensor, activation: Tensor) -> Tensor:
        """[models, inputs, samples]: the derivative by the inputs, 0 where those, ReLU's outputs, are at most 0.

        Args:
            params: [models, n] float32, contiguous.
            upstream: as `gradients` has it.
            activation: the inputs, [models, inputs, samples], contiguous.

        Raises:
            TypeError: for what is no tensor, or one without memory of its own (fake, sparse, negated, wrapped).
            ValueError: for tensors of another shape, dtype, layout or device, and memory that was freed.
            RuntimeError: for a tensor that requires grad, while autograd records.
        """
        models, sizes = self._models("params", params), self._sizes
        self._check("upstream", upstream, (models, sizes.outputs, sizes.samples))
        self._check("activation", activation, (models, sizes.inputs, sizes.samples))
        if self.backend == "reference":
            return reference.below(self._parts(params)[0], upstream, activation)
        found = torch.empty_like(activation)
        run = vectors.below(sizes)
        arrays = (self._at(params), upstream.data_ptr(), found.data_ptr(), activation.data_ptr())
        run(*arrays, models, params.shape[1], 1)
        return found

    def _parts(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """The weight and the bias of every model."""
        weight = params[:, self._start : self._bias]
        return weight.view(-1, self._sizes.outputs, self._sizes.inputs), params[:, self._bias : self._end]

    def _buffer(self, *, needed: bool) -> Tensor:
        """Memory for one family's inputs, turned; it may be larger than a stack."""
        numbers = self._sizes.inputs * self._sizes.samples if needed else 0
        return torch.empty(numbers, dtype=torch.float32, device="cpu")

    def _at(self, rows: Tensor) -> int:
        """The address of the first model's weight."""
        return rows.data_ptr() + self._start * rows.element_size()

    def _models(self, name: str, rows: Tensor, *, written: bool = False) -> int:
        self._check_memory(name, rows, written=written)
        models = rows.shape[0] if rows.dim() else 0
        self._check_shape(name, rows, (models, max(self._end, rows.shape[1] if rows.dim() == 2 else 0)))
        return models

    def _arms(self, x: Tensor, models: int) -> int:
        """Models of a family."""
        self._check_memory("x", x)
        families, inputs, samples = x.shape[0] if x.dim() else 0, self._sizes.inputs, self._sizes.samples
        fits = x.shape[1:] == (inputs, samples) and x.dtype == torch.float32
        if not fits or not (x.is_contiguous() or x.transpose(1, 2).is_contiguous()):
            raise ValueError(
                f"x of shape {tuple(x.shape)}, strides {x.stride()} and {x.dtype}: give a float32 tensor "
                f"{(families, inputs, samples)}, contiguous or a transposed view of a contiguous one"
            )
        if models and (not families or models % families):
            raise ValueError(f"x of {families} families for {models} models: give a number that divides the models")
        return max(1, models // max(1, families))

    def _check(self, name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
        self._check_memory(name, tensor)
        self._check_shape(name, tensor, shape)

    def _check_memory(self, name: str, tensor: Tensor, *, written: bool = False) -> None:
        """Refuse what has no memory that vector code could be given, and what autograd would have to know of."""
        check_tensor(tensor, name, "give a contiguous float32 tensor", dtypes=NUMBERS, written=written)
        if tensor.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(
                f"{name} requires grad, and autograd does not differentiate these products; give {name}.detach(), or "
                "call within torch.no_grad()"
            )
        if self.backend == "simd" and tensor.device.type != "cpu":
            raise ValueError(f"{name} on {tensor.device}: vector code needs a CPU; choose backend='reference'")

    @staticmethod
    def _check_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
        if tensor.shape != shape or tensor.dtype != torch.float32 or not tensor.is_contiguous():
            raise ValueError(
                f"{name} of shape {tuple(tensor.shape)} and {tensor.dtype}: give a contiguous float32 tensor {shape}"
            )


def _integer(name: str, value: Any) -> int:
    """A size as Python's integer.

    Raises:
        TypeError: for what is none; True and 16.0 are none.
    """
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise TypeError(f"{name}: {value!r} is no integer; give one")


def _share_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two dense tensors have an element's memory in common."""
    begin, start = one.data_ptr(), other.data_ptr()
    return begin < start + bytes_spanned(other) and start < begin + bytes_spanned(one)
