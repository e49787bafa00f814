"""What a fresh checkout promises: the packages find each other, and make sets up once."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run_python(code: str, path: list[Path], cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=cwd, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("package", ["lossscale", "bench"])
def test_anothers_kernels_is_told_from_ours(package: str, tmp_path: Path) -> None:
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("raise SystemExit('the stranger was imported')")
    for first in (
        "",
        "import sys, types, importlib.util as u; sys.modules['kernels'] = u.module_from_spec(u.find_spec('kernels'))\n",
    ):
        done = run_python(f"{first}import {package}", [tmp_path, ROOT], tmp_path)
        assert done.returncode == 1
        assert f"ImportError: the package 'kernels' found first is {tmp_path}/kernels/__init__.py" in done.stderr
        assert "PyPI has an unrelated package called 'kernels'" in done.stderr
        assert "pip uninstall kernels" in done.stderr


@pytest.mark.parametrize("package", ["lossscale", "bench"])
def test_ours_is_accepted_and_the_check_is_cheap(package: str, tmp_path: Path) -> None:
    code = f"import {package}, sys; assert not {{'torch', 'triton', 'numpy', 'kernels'}} & set(sys.modules)"
    done = run_python(code, [ROOT], tmp_path)
    assert done.returncode == 0, done.stderr


def test_constraints_pin_every_dependency_of_the_tested_set() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = [*project["dependencies"], *extras["report"], *extras["dev"], *extras["scale"]]
    pins = re.findall(r"^([\w-]+)==[\w.]+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert {re.split(r"[>=<]", name)[0] for name in named} <= set(pins)


PYTHON = """#!/bin/sh
# Stands in for python3: makes an environment whose python is this script, and logs what it is asked.
echo "$*" >> "$LOG"
case "$*" in
  *venv*) for last; do :; done; mkdir -p "$last/bin"; cp "$0" "$last/bin/python" ;;
  *"pip install"*) exit "${INSTALL_CODE:-0}" ;;
esac
"""


class Checkout:
    """A copy of what make reads, with a Python that only logs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = root / "log"
        self.python = root / "python"
        self.python.write_text(PYTHON)
        self.python.chmod(0o755)
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, root / name)

    def make(self, target: str, code: int = 0) -> tuple[int, list[str]]:
        """The exit code and what Python was asked."""
        self.log.write_text("")
        environment = {**os.environ, "LOG": str(self.log), "INSTALL_CODE": str(code), "MAKEFLAGS": ""}
        done = subprocess.run(
            ["make", target, f"PYTHON={self.python}"], cwd=self.root, env=environment, capture_output=True, check=False
        )
        return done.returncode, self.log.read_text().splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_make_study_installs_once_and_again_when_the_pins_change(checkout: Checkout) -> None:
    run = "-m lossscale run loss-vs-lr --resume"
    code, first = checkout.make("study")
    assert code == 0
    assert [line for line in first if "pip install" in line] == [
        "-m pip install --disable-pip-version-check -c constraints.txt -e .[report,dev]"
    ]
    assert first[-1] == run
    assert checkout.make("study") == (0, [run])
    os.utime(checkout.root / "constraints.txt", (2**31 - 1, 2**31 - 1))
    _, third = checkout.make("study")
    assert any("pip install" in line for line in third)
    assert not any("venv" in line for line in third)


def test_a_failed_install_is_tried_again(checkout: Checkout) -> None:
    code, lines = checkout.make("study", code=1)
    assert code == 2
    assert "lossscale" not in lines[-1]
    code, lines = checkout.make("study")
    assert code == 0
    assert any("pip install" in line for line in lines)


def test_make_test_lints_types_and_tests_twice(checkout: Checkout) -> None:
    code, lines = checkout.make("test")
    assert code == 0
    assert lines[-5:] == [
        "-m ruff check .",
        "-m ruff format --check .",
        "-m mypy",
        "-m pytest -n 2 -q -m interpreter and not slow",
        "-m pytest -n 2 -q -m not interpreter and not slow",
    ]


def test_make_test_compat_has_its_own_environment(checkout: Checkout) -> None:
    code, lines = checkout.make("test-compat")
    assert code == 0
    assert any(line.endswith("--no-deps triton==3.6.0") for line in lines)
    assert not (checkout.root / ".venv").exists()


def test_make_test_clients_has_its_own_environment_and_writes_the_table(checkout: Checkout) -> None:
    code, lines = checkout.make("test-clients")
    assert code == 0
    assert any(line.endswith("-e .[clients,dev]") for line in lines)
    assert lines[-1] == "-m pytest -q tests/clients"
    assert not (checkout.root / ".venv").exists()


def test_a_name_that_our_kernels_lacks_is_a_missing_package_to_whoever_imports_it() -> None:
    with pytest.raises(ModuleNotFoundError, match="the one of lossscale-bench") as caught:
        from kernels import get_kernel  # noqa: F401
    assert caught.value.name == "kernels"
    import kernels

    assert not hasattr(kernels, "get_kernel")
    with pytest.raises(AttributeError, match="no attribute 'get_kernel'"):
        kernels.get_kernel  # noqa: B018
