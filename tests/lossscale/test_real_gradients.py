"""The transformer and its text, and what the study counts."""

import math

import numpy as np
import pytest
import torch

from lossscale.design.grid import NetworkInits
from lossscale.design.spec import RunSpec
from lossscale.models.copies import Copies
from lossscale.models.modules import data_digests, get_module
from lossscale.models.transformer import CONTEXT, TextStream, Transformer, alphabet, text, text_digest
from lossscale.studies.real_gradients import GRID, TRANSFORMER
from lossscale.studies.real_gradients.spectra import (
    FP16_SQUARE,
    HIGHEST,
    LOWEST,
    binades,
    layers_of,
    quantile_of,
    usable_scales,
)

CPU = torch.device("cpu")


def test_the_text_is_a_real_one_and_passages_belong_to_seed_init_and_step() -> None:
    assert len(text()) > 400_000 and 90 < len(alphabet()) < 200 and len(text_digest()) == 16
    stream = TextStream(seed=1, inits=[3, 5], device=CPU)
    batch = stream.batch(7)
    assert batch.inputs.shape == batch.targets.shape == (2, 1, CONTEXT) and batch.inputs.dtype == torch.int64
    assert torch.equal(batch.inputs[0, 0, 1:], batch.targets[0, 0, :-1])
    assert "".join(alphabet()[index] for index in batch.inputs[0, 0].tolist()) in text()
    assert torch.equal(TextStream(seed=1, inits=[5], device=CPU).batch(7).inputs[0], batch.inputs[1])
    assert not torch.equal(stream.batch(8).inputs, batch.inputs)
    assert data_digests(["mlp-64-32-10", TRANSFORMER]) == {f"data of {TRANSFORMER}": text_digest()}


def test_the_transformer_sees_no_later_character_and_has_about_300_000_parameters() -> None:
    torch.manual_seed(0)
    model = Transformer().eval()
    assert 280_000 < sum(p.numel() for p in model.parameters()) < 320_000
    tokens = torch.randint(len(alphabet()), (1, CONTEXT))
    other = tokens.clone()
    other[0, 40:] = (other[0, 40:] + 1) % len(alphabet())
    with torch.no_grad():
        one, two = model(tokens), model(other)
    assert torch.equal(one[:, :40], two[:, :40]) and not torch.equal(one[:, 40:], two[:, 40:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_population_of_transformers_scales_exactly(dtype: torch.dtype) -> None:
    network = get_module(TRANSFORMER)
    copies = Copies(network, seed=0, inits=range(1), members=2, compute=dtype, device=CPU)
    params = copies.initial.repeat_interleave(2, 0).to(dtype)
    grads = torch.empty_like(params)
    batch = network.stream(seed=0, inits=range(1), device=CPU).batch(1)
    copies.gradients(params, batch, torch.tensor([1.0, 2.0**10]), grads, step=1)
    assert torch.equal(grads[1], grads[0] * 2.0**10) and (grads[0] != 0).float().mean() > 0.5


def test_a_network_may_end_before_the_others() -> None:
    spec = RunSpec.of("real-gradients", GRID, seed=0, device="cpu", backend="auto")
    assert spec.of_network(TRANSFORMER).checkpoints == (1, 10, 100, 500)
    assert spec.of_network("mlp-64-32-10").checkpoints == (1, 10, 100)
    assert RunSpec.from_dict(spec.as_dict()).networks[1].last_step == 100
    assert "last_step" not in spec.as_dict()["networks"][0]
    assert NetworkInits(network="x", inits=1, cohort_inits=1, quick_inits=1).last_step == 0


def test_binades_zeros_and_quantiles() -> None:
    values = torch.tensor([0.0, 0.0, 1.0, 1.99, 2.0, 2.0**-14, 2.0**-140, math.inf], dtype=torch.float64)
    counts, zeros = binades(values)
    assert zeros == 2 and sum(counts) == 5 and counts[-LOWEST] == 2 and counts[1 - LOWEST] == 1
    assert counts[-14 - LOWEST] == 1 and len(counts) == HIGHEST - LOWEST + 1
    assert quantile_of(counts, 0.5) == 0.0 and math.isnan(quantile_of([0] * 5, 0.5))
    # (1 - beta2) g^2 is lost in float16 up to the square root of its smallest half: SCIENCE's 5.46e-3.
    assert abs(FP16_SQUARE - 5.46e-3) < 5e-6
    kept = torch.tensor((1.0 - 0.999) * (FP16_SQUARE * 1.001) ** 2).half()
    lost = torch.tensor((1.0 - 0.999) * (FP16_SQUARE * 0.999) ** 2).half()
    assert kept > 0 and lost == 0


def test_scales_that_fit_float16() -> None:
    low, high = usable_scales(np.array([0.0, *[2.0**-20] * 99, 8.0]))
    assert (low, high) == (2.0**6, 2.0**12)
    assert all(np.float16(2.0**-20 * low) >= 2.0**-14 and np.isfinite(np.float16(8.0 * s)) for s in (low, high))
    low, high = usable_scales(np.array([*[2.0**-40] * 99, 2.0**10]))
    assert low > high, "nothing fits both"


def test_every_layer_has_its_columns() -> None:
    layers = layers_of(TRANSFORMER)
    assert layers["character.weight"].start == 0 and "blocks.1.mlp_out.bias" in layers
    widths = [columns.stop - columns.start for columns in layers.values()]
    assert sum(widths) == get_module(TRANSFORMER).parameters
