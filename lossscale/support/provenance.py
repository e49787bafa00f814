"""Where a result comes from: versions, machine, device, CPU capability, git revision."""

import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from .output import plain

ROOT = Path(__file__).resolve().parents[2]
"""The directory that holds the three packages: a checkout, or site-packages."""

_PACKAGES = (
    *("torch", "triton", "numpy", "pandas", "pyarrow", "scipy", "scikit-learn", "numba", "plotly", "typer", "rich"),
    "ray",
    *("jax", "optax", "torch-optimi", "bitsandbytes", "torchao"),
)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Everything that a kept result says about its origin. Text fields are empty where there is nothing to say."""

    version: str  # of these packages
    python: str
    packages: Mapping[str, str]  # distribution → version, of those installed
    platform: str  # operating system, kernel, C library
    processor: str
    cores: int  # this process may use
    cpu_capability: str  # torch's: it decides which CPU kernels run, hence their bits
    device: str  # cpu or cuda
    device_name: str
    device_capability: str  # sm_90
    cuda: str  # CUDA version that torch was built with
    torch_build: str  # torch's version and source revision
    git_revision: str
    git_dirty: bool | None  # None without a revision

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON will hold it."""
        document: dict[str, Any] = plain(self)
        return document

    def resume_key(self, *, portable: bool = False) -> dict[str, str]:
        """What has to agree for a run to be resumed to the same bytes; little where its bits are portable."""
        if portable:
            return {"torch_build": self.torch_build}
        return {
            "cpu_capability": self.cpu_capability,
            "device": self.device,
            "device_name": self.device_name if self.device == "cuda" else "",
            "torch_build": self.torch_build,
        }


def collect(device: str = "cpu") -> Provenance:
    """Describes this process on the device (``cpu`` or ``cuda``).

    Needs no git and no installation of these packages.
    """
    import torch

    from .. import __version__

    processor = _processor()
    name, capability = processor, ""
    if device == "cuda":
        name = torch.cuda.get_device_name()
        capability = "sm_{}{}".format(*torch.cuda.get_device_capability())
    revision, dirty = git_state()
    return Provenance(
        version=__version__,
        python=platform.python_version(),
        packages=installed_versions(),
        platform=platform.platform(),
        processor=processor,
        cores=len(os.sched_getaffinity(0)),
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        device=device,
        device_name=name,
        device_capability=capability,
        cuda=torch.version.cuda or "",
        torch_build=f"{torch.__version__} {(torch.version.git_version or '')[:12]}".strip(),
        git_revision=revision,
        git_dirty=dirty,
    )


def installed_versions() -> dict[str, str]:
    """Versions of the packages that matter here, as far as they are installed."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def git_state(root: Path = ROOT) -> tuple[str, bool | None]:
    """The revision checked out in ``root`` and whether tracked files differ from it; ``("", None)`` without one."""
    top = _git(root, "rev-parse", "--show-toplevel")
    # An installed copy may lie inside some other project's repository, whose revision says nothing about it.
    if top is None or Path(top).resolve() != root.resolve():
        return "", None
    revision = _git(root, "rev-parse", "--verify", "HEAD")
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    if revision is None or changes is None:
        return "", None
    return revision, bool(changes)


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor())
