"""Populations and trainers that are copied or read from a file go on to the same bits, and the first ones too."""

import copy
import dataclasses
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import kernels
from kernels import bits
from kernels.population.network import NETWORKS

RECORDS = [{"lr": 0.1}, {"lr": 0.01, "betas": (0.5, 0.9)}]
LIKE = NETWORKS["mlp-6-6-1"]


def saved(thing: Any) -> Any:
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS: list[Callable[[Any], Any]] = [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing)), saved]


def population() -> kernels.Population:
    params = torch.linspace(-1, 1, 84).view(4, 21).bfloat16()
    return kernels.Population("adam", RECORDS, params, recipe="for-loop", state_dtype=torch.float32)


def step(it: kernels.Population, number: int) -> None:
    grads = torch.linspace(-0.5, number, 84).view(4, 21).bfloat16()
    it.step(grads, found_inf=[0, 1, 0, 0] if number < 3 else None)


def trainer(network: Any = "mlp-6-6-1") -> kernels.Trainer:
    params = torch.linspace(-1, 1, 40 * kernels.population.network.get_network(network).parameters).view(40, -1)
    return kernels.Trainer("adam", RECORDS, params.clone(), network=network, policy="bf16-mixed", loss_scale=[1.0, 8.0])


def train(it: kernels.Trainer, number: int) -> None:
    it.run(torch.linspace(-1, number, 2 * it.network.features).view(2, 1, -1))


def wide() -> kernels.Trainer:
    return trainer(dataclasses.replace(LIKE, name="wide", widths=(4, 3, 1)))


def tensors(it: Any) -> list[Tensor]:
    return [it.params, *it.state.values()]


@pytest.mark.parametrize("way", WAYS, ids=["deepcopy", "pickle", "torch.save"])
@pytest.mark.parametrize(("make", "go"), [(population, step), (trainer, train), (wide, train)])
def test_a_copy_goes_on_to_the_same_bits(make: Callable[[], Any], go: Callable[..., None], way: Any) -> None:
    expected, first = make(), make()
    for number in range(4):
        go(expected, number)
    go(first, 0)
    go(first, 1)
    other = way(first)
    assert not {x.data_ptr() for x in tensors(first)} & {x.data_ptr() for x in tensors(other)}
    for it in (other, first):
        go(it, 2)
        go(it, 3)
        assert it.step_count == expected.step_count and it.backend == expected.backend
        assert [bits.mismatches(a, b) for a, b in zip(tensors(it), tensors(expected), strict=True)] == [0] * 3
    if make is population:
        assert torch.equal(other.steps, expected.steps)


def test_what_is_copied_together_stays_together() -> None:
    it = population()
    params, other = copy.deepcopy((it.params, it))
    assert other.params is params


def test_a_head_that_no_file_can_name_is_copied_and_not_written() -> None:
    head = dataclasses.replace(LIKE.head, name="mine")
    it = trainer(dataclasses.replace(LIKE, name="mine", head=head))
    assert copy.deepcopy(it).network.head is head
    with pytest.raises(TypeError, match=r"^head 'mine': a file can name the heads of NETWORKS alone; register"):
        pickle.dumps(it)
