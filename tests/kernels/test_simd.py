"""The simd backend has the reference's bits, in any number of threads, on AVX2 too."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from avx2 import output_on_avx2
from configurations import draw, run

import kernels
from kernels import bits
from kernels.backends import dispatch, step_bucket
from kernels.backends.simd import machine, step, threads
from kernels.launch.buckets import Bucket
from kernels.rounding.powers import power_table

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(bool(machine.unavailable()), reason=f"no simd backend: {machine.unavailable()}")


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step is parted in two, whatever its size, and more where a tensor is longer than a block."""
    monkeypatch.setattr(step, "PARALLEL", 0)
    monkeypatch.setattr(step, "_PART", 64)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


def assert_equals_reference(seed: int) -> None:
    vectors, referenced = run(seed, "simd"), run(seed, "reference")
    for name, tensor in vectors.items():
        found = bits.report(tensor, referenced[name])
        assert found is None, f"{name} of seed {seed}: {found}; {draw(seed)[0]}"


@pytest.mark.parametrize("block", range(8))
def test_simd_equals_reference(block: int) -> None:
    for seed in range(40 * block, 40 * block + 40):
        assert_equals_reference(seed)


@pytest.mark.usefixtures("two_threads")
def test_parts_have_the_same_bits() -> None:
    for seed in range(1000, 1040):
        assert_equals_reference(seed)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("parts", [1, 3, 7])
def test_any_number_of_parts_without_threads(parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: parts)
    monkeypatch.setattr(threads, "run", lambda *arguments: False)
    for seed in range(2000, 2020):
        assert_equals_reference(seed)


@pytest.mark.parametrize(("optimizer", "asked"), [("AdamW", 8), ("Adagrad", 3), ("SGD", 0)])
def test_memory_is_asked_for_ahead_where_elements_take_long(
    optimizer: str, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AdamW has two versions of its loop, one with the uniform choices made as expected (`versions`)."""
    texts: list[str] = []

    def compiled(name: str, text: str) -> int:
        texts.append(text)
        return machine.address_of(name, text)

    monkeypatch.setattr(step, "address_of", compiled)
    monkeypatch.setattr(step, "_COMPILED", {})
    p = torch.nn.Parameter(torch.zeros(64))
    p.grad = torch.ones(64)
    getattr(kernels, optimizer)([p], lr=0.1, recipe="cpu-fused", backend="simd").step()
    assert texts[0].count("call void @llvm.prefetch") == asked


def test_torch_brings_the_threads() -> None:
    assert threads._parallel() is not None


def test_avx2_has_the_same_bits() -> None:
    """LLVM splits the vectors for a CPU without AVX-512."""
    code = (
        "from test_simd import *\nfor seed in range(3000, 3040): assert_equals_reference(seed)\nprint(machine.target())"
    )
    assert "haswell" in output_on_avx2(code)


@pytest.mark.parametrize("recipe", ["foreach", "fused", "cpu-fused"])
@pytest.mark.parametrize("kinds", list(itertools.product((torch.float32, torch.bfloat16), repeat=3)), ids=str)
def test_a_nan_of_any_payload_stays_one(kinds: tuple[torch.dtype, ...], recipe: str) -> None:
    patterns = {
        torch.float32: torch.tensor([0x7FFFFFFF, -1, 0x7F800001, 0x7FC00000, 0x7FFF8000, 0x3F800000]).int(),
        torch.bfloat16: torch.tensor([0x7FFF, -1, 0x7F81, 0x7FC0, 0x7F80, 0x3F80]).short(),
    }
    adam = kernels.get_algorithm("adam")
    hyper, powers = adam.hyperparameters(weight_decay=0.1), power_table(torch.device("cpu"))
    scale = patterns[torch.float32][:1].view(torch.float32)
    for place, scaled in itertools.product(range(4), (None, scale, torch.ones(1))):
        outcomes = []
        for backend in ("simd", "reference"):
            dtypes = (kinds[0], kinds[1], kinds[2], kinds[2])
            tensors = [torch.ones(6 * 9, dtype=dtype) for dtype in dtypes]
            tensors[place] = patterns[dtypes[place]].repeat(9).view(dtypes[place])
            p, g, m, v = tensors
            bucket = Bucket(params=[p], grads=[g], states=[[m], [v], None], row_of=[0])
            step_bucket(
                adam.recipe(recipe),
                adam.flags(hyper),
                bucket,
                rows=torch.tensor([adam.recipe(recipe).row_for(bucket.dtypes)(hyper, 3.0, False, powers)]).double(),
                steps=torch.tensor([3.0]),
                powers=powers.values,
                grad_scale=scaled,
                backend=backend,
            )
            outcomes.append(tensors)
        for vectors, referenced in zip(*outcomes, strict=True):
            assert bits.report(vectors, referenced) is None, (place, scaled)


# -- the choice of a backend -----------------------------------------------------------------------------------------


def test_auto_is_simd_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert kernels.resolve_backend("auto", cpu) == "simd" and kernels.available_backends()["simd"] == ""
    monkeypatch.setattr(dispatch.simd, "unavailable", lambda: "llvmlite is missing; pip install numba, which brings it")
    assert kernels.resolve_backend("auto", cpu) == "reference"
    assert "pip install numba" in kernels.available_backends()["simd"]
    with pytest.raises(ValueError, match=r"backend 'simd': llvmlite is missing; pip install numba.*'reference'"):
        kernels.Adam([torch.nn.Parameter(torch.ones(1))], backend="simd")


def test_simd_wants_a_cpu() -> None:
    with pytest.raises(ValueError, match=r"backend 'simd': needs CPU tensors, these are on cuda; choose 'triton'"):
        kernels.resolve_backend("simd", torch.device("cuda"))


@pytest.mark.parametrize(
    ("machine_name", "version", "flags", "reason"),
    [
        ("aarch64", "0.50.0", "", "x86-64"),
        ("x86_64", "", "", "pip install numba"),
        ("x86_64", "0.44.0", "", "llvmlite 0.44.0 is too old"),
        ("x86_64", "0.45.0rc1", "fma f16c", "lacks avx2"),
        ("x86_64", "1.0", "avx2 fma f16c", ""),
    ],
)
def test_why_it_cannot(
    machine_name: str, version: str, flags: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.platform, "machine", lambda: machine_name)
    monkeypatch.setattr(machine, "_llvmlite_version", lambda: version)
    monkeypatch.setattr(machine, "_cpu_flags", lambda: frozenset(flags.split()))
    said = machine.unavailable.__wrapped__()
    assert reason in said and bool(reason) == bool(said)


def test_importing_kernels_leaves_the_compiler_alone() -> None:
    code = "import sys, kernels; assert not {'llvmlite', 'numba'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
