"""What reaches the driver when populations are stepped and trained on a GPU: Triton's launcher over a stand-in."""

import pytest
import torch

import kernels

from .conftest import StubDriver

ADAM = kernels.get_algorithm("adam").hyperparameters


def test_a_population_step_is_one_launch(driver: StubDriver) -> None:
    params = torch.randn(40, 49)
    population = kernels.Population("adam", [ADAM(lr=0.1), ADAM(lr=0.2)], params)
    driver.keep(4)
    for step in (1, 2, 3):
        grads = torch.randn(40, 49)
        population.step(grads)
        moments = [population.state[name].data_ptr() for name in ("exp_avg", "exp_avg_sq")]
        assert driver.given(4) == [params.data_ptr(), grads.data_ptr(), *moments]
        assert (driver.launches, driver.programs) == (step, 2)


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True], ids=["per-block", "per-model"])
def test_a_run_is_two_launches_of_the_same_arguments(driver: StubDriver, own: bool) -> None:
    """The optimistic pass and the other one; runs that go on and are begun again."""
    params = torch.rand(64, 49) - 0.5
    records = [ADAM(lr=0.001 * (1 + k)) for k in range(64 if own else 1)]
    trainer = kernels.Trainer("adam", records, params, network="mlp-6-6-1", loss_scale=[1.0] * 64)
    data = torch.rand(6, 64, 7)
    driver.keep(6)
    seen = 0
    for steps in (6, 6, 4):
        trainer.run(data[:steps])
        seen += 2
        moments = [trainer.state[name].data_ptr() for name in ("exp_avg", "exp_avg_sq")]
        # A third state and gradients are neither read nor written.
        nothing = params.data_ptr()
        assert driver.given(6) == [params.data_ptr(), *moments, nothing, nothing, data.data_ptr()]
        assert (driver.launches, driver.programs) == (seen, 2)
    trainer.restart(torch.rand(64, 49) - 0.5)
    trainer.run(data)
    assert driver.launches == seen + 2
