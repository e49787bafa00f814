"""A stand-in for the CUDA driver's library, under Triton's own launcher: what a GPU would be given, without one."""

import contextlib
import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import triton

import kernels
from kernels.backends import dispatch
from kernels.backends import triton as backend
from kernels.population import launches_triton, step, trainer


@dataclass(frozen=True)
class StubDriver:
    """What reached the driver.

    Attributes:
        library: `stub_libcuda.c`.
    """

    library: Any

    def _number(self, name: str) -> Any:
        return ctypes.c_int.in_dll(self.library, name)

    @property
    def launches(self) -> int:
        """Of kernels, so far."""
        return int(self._number("stub_launches").value)

    @property
    def programs(self) -> int:
        """Of the last launch."""
        return int(self._number("stub_programs").value)

    def keep(self, count: int) -> None:
        """Keep so many arguments of every launch to come, which must have them."""
        self._number("stub_count").value = count

    def given(self, count: int) -> list[int]:
        """The first arguments of the last launch, eight bytes each."""
        return list((ctypes.c_uint64 * 64).in_dll(self.library, "stub_given")[:count])


@pytest.fixture(scope="session")
def stub_library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The driver's library that keeps what it is given, where a later search for the real one finds it."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    # Optional: what a launch is given is asked of the interpreter and of GPUs too.
    if compiler is None:
        pytest.skip("needs a C compiler, as Triton does wherever it launches")
    built = tmp_path_factory.mktemp("driver") / "libcuda.so.1"
    source = Path(__file__).with_name("stub_libcuda.c")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1", str(source), "-o", str(built)], check=True
    )
    return ctypes.CDLL(str(built), mode=ctypes.RTLD_GLOBAL)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, stub_library: Any) -> Iterator[StubDriver]:
    """Triton's own launcher for CUDA over that library; everything on a CPU takes it for a GPU."""
    # A process has one library of the driver; there the tests on CUDA launch in earnest.
    if torch.cuda.is_available():
        pytest.skip("there is a real driver")
    folder = Path(stub_library._name).parent
    monkeypatch.setattr(triton.knobs.nvidia, "libcuda_path", str(folder))
    monkeypatch.setattr(triton.knobs.cache, "dir", str(folder / "cache"))
    from triton.backends.nvidia.driver import CudaDriver, library_dirs

    library_dirs.cache_clear()
    ours = CudaDriver()
    monkeypatch.setattr(ours, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(ours, "get_current_device", lambda: 0)
    monkeypatch.setattr(ours, "get_current_stream", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    real = backend.launcher
    for module in (backend, launches_triton):
        monkeypatch.setattr(module, "launcher", lambda compiled, device, constants: real(compiled, 0, constants))
    for module in (dispatch, kernels.backends, trainer, step):
        monkeypatch.setattr(module, "resolve_backend", lambda name, device: "triton")
    monkeypatch.setattr(backend, "_COMPILED", {})
    launches_triton._kernel.cache_clear()
    jitted = (
        kernels.step_kernel.step_kernel,
        kernels.population.train_kernel.train_kernel,
        kernels.population.step_kernel.population_kernel,
    )
    for function in jitted:
        function.device_caches.clear()
    monkeypatch.setattr(triton.runtime.driver, "_active", ours)
    found = StubDriver(stub_library)
    found._number("stub_launches").value = 0
    found.keep(0)
    yield found
    for function in jitted:
        function.device_caches.clear()
    launches_triton._kernel.cache_clear()
    library_dirs.cache_clear()
