import importlib

import pytest
import torch

from bench.golden import hypotheses
from bench.optimizers import timed_options, titles
from bench.providers.base import Unsupported
from bench.providers.registry import all_providers
from bench.store import schema
from bench.timing import roofline
from bench.timing.rows import quantiles
from bench.timing.run import usual_providers
from bench.timing.shapes import MODELS, PUBLISHED, parameters
from bench.timing.workloads import StepWorkload, cpu_steps, cuda_steps, many, model, one

CUDA = torch.device("cuda")


@pytest.mark.parametrize(
    ("optimizer", "options", "dtype", "count"),
    [
        ("Adam", {}, "fp32", 28),
        ("Adam", {}, "bf16", 14),
        ("AdamW", {"amsgrad": True}, "fp32", 36),
        ("SGD", {}, "fp32", 12),
        ("SGD", {"momentum": 0.9}, "fp32", 20),
        ("RMSprop", {"centered": True, "momentum": 0.9}, "fp16", 18),
        ("Adagrad", {}, "fp32", 20),
    ],
)
def test_bytes_per_element(optimizer: str, options: dict[str, float], dtype: str, count: int) -> None:
    assert roofline.bytes_per_element(optimizer, options, dtype) == count


def test_bytes_of_mixed_dtypes_and_scaled_gradients() -> None:
    assert roofline.bytes_per_element("Adam", {}, "fp32", state_dtype="bf16") == 20
    assert roofline.bytes_per_element("Adam", {}, "fp32", scaled=True) == 32


def test_workloads_have_the_elements_they_say() -> None:
    for workload in (*cuda_steps(), *cpu_steps()):
        tensors = workload.tensors
        name = schema.workload_name(len(tensors.shapes), tensors.elements)
        assert tensors.name == name == workload.label()["workload"]
    assert len({*map(str, cuda_steps())}) == len(list(cuda_steps())) == 60


def test_every_registered_optimizer_is_timed() -> None:
    timed = {workload.optimizer for workload in cuda_steps()}
    assert timed == {workload.optimizer for workload in cpu_steps()} == {*titles()} >= {"AdamAtan2"}
    assert timed_options("SGD") == {"lr": 1e-3, "momentum": 0.9}
    assert timed_options("RMSprop") == {"lr": 0.01}
    native = [provider.name for provider in usual_providers(StepWorkload(optimizer="AdamAtan2", tensors=one(8)), CUDA)]
    assert native == ["kernels-native[triton]"]


@pytest.mark.parametrize("name", MODELS)
def test_model_shapes_have_the_published_number_of_parameters(name: str) -> None:
    assert parameters(MODELS[name]()) == PUBLISHED[name] == model(name).elements


def test_workload_tensors_are_the_same_each_time_and_not_zero() -> None:
    workload = StepWorkload(optimizer="SGD", tensors=many(3, 33))
    first, second = workload.parameters(torch.device("cpu")), workload.parameters(torch.device("cpu"))
    assert all(torch.equal(a, b) and bool(a.any()) for a, b in zip(first, second, strict=True))


def test_quantiles() -> None:
    assert quantiles([]) is None
    assert quantiles([3, 1, 2]) == {"median": 2.0, "q10": 1.2, "q90": 2.8}


def test_open_questions_single_out_one_hypothesis() -> None:
    rows = {(row["check"], row.get("dtype")): row for row in hypotheses.run(torch.device("cpu"))}
    division = rows["tensor / float", "fp32"]
    assert division["holds"] == ["true_division"]
    assert division["differing"]["double_reciprocal"] > 1000
    assert rows["lerp 0.1", "fp32"]["holds"] == ["from_start"]
    assert rows["lerp 0.5", "fp32"]["holds"] == ["from_end"]
    # torch refuses capturable on the CPU: a row, not an exception.
    assert rows["capturable foreach", "fp32"]["outcome"] == "error"


def test_capturable_hypotheses_part(monkeypatch: pytest.MonkeyPatch) -> None:
    # torch.optim hides its module behind the function of the same name.
    module = importlib.import_module("torch.optim.adam")
    monkeypatch.setattr(module, "_get_capturable_supported_devices", lambda *args, **named: ["cpu"])
    for recipe in ("foreach", "for-loop"):
        row = hypotheses._capturable(recipe, "bf16", torch.device("cpu"))
        assert row["holds"] == ["factors_in_float32"]
        assert row["differing"]["factors_cast_to_dtype"] > 0


def test_the_graphed_provider_is_there_for_a_gpu_alone() -> None:
    provider = all_providers()["kernels-fused-graphed"]
    assert provider.missing(torch.device("cuda")) == ""
    assert provider.missing(torch.device("cpu")) == "graphs need CUDA tensors"
    # What `kernels.graphed` refuses is an outcome, as every refusal of a constructor.
    group = [{"params": [torch.nn.Parameter(torch.zeros(2))]}]
    with pytest.raises(Unsupported, match="graphs need them on a GPU"):
        provider.build("AdamW", group, {})
