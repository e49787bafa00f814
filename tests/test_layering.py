"""The direction of imports: bench → lossscale → kernels, across packages public names only, and room by room inside."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALLOWED: dict[str, set[str]] = {"kernels": set(), "lossscale": {"kernels"}, "bench": {"kernels", "lossscale"}}

ROOMS: dict[str, dict[str, set[str]]] = {
    "kernels": {
        "bits": set(),
        "names": set(),
        "rounding": set(),
        "algorithm": {"names", "rounding"},
        "algorithms": {"algorithm", "rounding"},
        "launch": {"algorithm", "rounding"},
        "backends": {"algorithm", "names", "rounding", "launch"},
        "optim": {"algorithm", "rounding", "launch", "backends"},
        "population": {"algorithm", "names", "rounding", "launch", "backends"},
        "functional": {"algorithm", "algorithms", "rounding", "launch", "backends", "optim"},
        "fingerprint": {"algorithm", "rounding", "launch"},
    },
    "lossscale": {
        "support": set(),
        "diagnose": {"support"},
        "theory": {"diagnose"},
        "design": {"support"},
        "models": {"design", "support"},
        "engines": {"design", "models", "diagnose", "theory", "support"},
        "analysis": {"design", "support"},
        "runs": {"design", "models", "engines", "analysis", "support"},
        "report": {"design", "runs", "support"},
        "studies": {"design", "models", "engines", "runs", "analysis", "report", "diagnose", "theory", "support"},
        "checkpoints": {"design", "diagnose", "support"},
        "rescale": {"checkpoints", "design", "diagnose", "support"},
        "inspection": {"checkpoints", "design", "diagnose", "support"},
        "probe": {"diagnose", "support"},
        "clipping": {"support"},
        "conventions": {"support"},
        "commands": {"design", "runs", "report", "studies", "support"},
        "showing": {"report", "studies", "support"},
        "__main__": {"support"},
    },
    "bench": {
        "choices": set(),
        "optimizers": {"choices"},
        "pairwise": set(),
        "tracebacks": set(),
        "workers": {"tracebacks"},
        "store": set(),
        "providers": {"choices", "optimizers", "tracebacks"},
        "conformance": {"choices", "optimizers", "pairwise", "providers", "store", "tracebacks", "workers"},
        "machine_code": {"choices", "optimizers", "pairwise", "workers"},
        "golden": {"conformance", "optimizers", "tracebacks"},
        "timing": {"choices", "conformance", "optimizers", "providers", "store", "tracebacks"},
        "report": {"store", "timing"},
        "campaign": {"choices", "conformance", "golden", "providers", "store", "timing", "tracebacks", "workers"},
        "listing": {"providers", "store", "timing"},
        "__main__": set(),
    },
}
"""package → room (a folder, or a file beside the folders) → the other rooms that it may import."""


def wrong_rooms(root: Path, rooms: dict[str, dict[str, set[str]]]) -> list[str]:
    """One line, ``file:line: why``, for every import from one room of a package into another against the table."""
    return [
        f"{path.relative_to(root)}:{line}: {why}"
        for package, table in rooms.items()
        for path in sorted((root / package).rglob("*.py"))
        for line, why in wrong_rooms_in_file(path, root / package, table)
    ]


def wrong_rooms_in_file(path: Path, package: Path, table: dict[str, set[str]]) -> Iterator[tuple[int, str]]:
    inside = path.relative_to(package).with_suffix("").parts
    room = inside[0]
    if room == "__init__":
        return  # the package's face may show any room
    if room not in table:
        yield 1, f"{room} has no place in the table of {package.name}'s rooms"
        return
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = inside[: len(inside) - node.level]
            for alias in node.names:
                target = (*base, *(node.module.split(".") if node.module else ()), alias.name)
                if target[0] in table and target[0] != room and target[0] not in table[room]:
                    yield node.lineno, f"{room} must not import {target[0]}: {'.'.join(target)}"


def wrong_imports(root: Path) -> list[str]:
    """One line, ``file:line: why``, for everything that a package takes from another against the rules."""
    return [
        f"{path.relative_to(root)}:{line}: {why}"
        for package in ALLOWED
        for path in sorted((root / package).rglob("*.py"))
        for line, why in wrong_in_file(path, package, root)
    ]


def wrong_in_file(path: Path, package: str, root: Path) -> Iterator[tuple[int, str]]:
    for line, target in uses(ast.parse(path.read_text(), str(path))):
        other, *names = target.split(".")
        if other == "tests":
            yield line, f"{package} imports the tests: {target}"
        elif other not in ALLOWED:
            continue
        elif other == package:
            yield line, f"{target}: imports inside a package are relative"
        elif other not in ALLOWED[package]:
            yield line, f"{package} must not import {other}: {target}"
        elif names and (names[0] not in public_names(root / other) or any(name.startswith("_") for name in names[1:])):
            yield line, f"{target} is not a public name of {other}"


def uses(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Dotted names of what is imported absolutely, and of what is reached through a package imported whole."""
    nodes = list(ast.walk(tree))
    whole: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                whole[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in whole:
            yield node.lineno, f"{whole[node.value.id]}.{node.attr}"


def public_names(package: Path) -> set[str]:
    """The strings of ``__all__`` in the package's ``__init__``."""
    for node in ast.parse((package / "__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return set(ast.literal_eval(node.value))
    return set()


def test_the_packages_keep_the_direction() -> None:
    assert wrong_imports(ROOT) == []


def test_the_rooms_keep_their_arrows() -> None:
    assert wrong_rooms(ROOT, ROOMS) == []


@pytest.mark.parametrize("package", ROOMS)
def test_the_arrows_of_the_rooms_make_no_circle(package: str) -> None:
    graphlib.TopologicalSorter(ROOMS[package]).prepare()


@pytest.mark.parametrize("package", ROOMS)
def test_every_room_of_the_table_is_there(package: str) -> None:
    for room in ROOMS[package]:
        assert (ROOT / package / room / "__init__.py").exists() or (ROOT / package / f"{room}.py").exists(), room


@pytest.mark.parametrize(
    ("file", "source", "complaint"),
    [
        ("p/low/a.py", "from ..high import b", "low must not import high: high.b"),
        ("p/low/a.py", "from ..high.deep import b", "low must not import high: high.deep.b"),
        ("p/low/a.py", "def f():\n    from .. import high", "low must not import high: high"),
        ("p/low/deep/a.py", "from ...high import b", "low must not import high: high.b"),
        ("p/file.py", "from .high import b", "file must not import high: high.b"),
        ("p/other/a.py", "", "other has no place in the table of p's rooms"),
    ],
)
def test_a_wrong_arrow_between_rooms_is_found(tmp_path: Path, file: str, source: str, complaint: str) -> None:
    table: dict[str, set[str]] = {"low": set(), "high": {"low"}, "file": {"low"}}
    for name, text in {"p/high/ok.py": "from ..low import a\nfrom .b import c\nimport low", file: source}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert [line.partition(": ")[2] for line in wrong_rooms(tmp_path, {"p": table})] == [complaint]


def test_a_study_imports_only_design_until_it_is_run() -> None:
    studies = ROOT / "lossscale" / "studies"
    faces = [*studies.glob("*.py"), *studies.glob("*/__init__.py")]
    assert len(faces) > 2
    for path in faces:
        inside = path.relative_to(ROOT / "lossscale").with_suffix("").parts
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and node.level:
                base = inside[: len(inside) - node.level]
                assert base == () and (node.module or "").startswith("design"), f"{path}:{node.lineno}"


def test_design_imports_no_torch() -> None:
    code = (
        "import importlib, pkgutil, sys; import lossscale.design as room\n"
        "for module in pkgutil.iter_modules(room.__path__): importlib.import_module(f'{room.__name__}.{module.name}')\n"
        "assert not {'torch', 'pandas', 'kernels'} & set(sys.modules), sorted(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_every_package_was_read() -> None:
    for package in ALLOWED:
        assert (ROOT / package / "__init__.py").exists()
        assert package == "bench" or public_names(ROOT / package), f"{package} names no public names"


@pytest.mark.parametrize(
    ("file", "source", "complaint"),
    [
        ("kernels/a.py", "import lossscale", "kernels must not import lossscale: lossscale"),
        ("kernels/a.py", "from bench.timing import run", "kernels must not import bench: bench.timing.run"),
        ("kernels/deep/a.py", "def f():\n    import bench", "kernels must not import bench: bench"),
        ("lossscale/a.py", "import bench.timing as t", "lossscale must not import bench: bench.timing"),
        ("lossscale/a.py", "from kernels.nothing import a", "kernels.nothing.a is not a public name of kernels"),
        ("lossscale/a.py", "from kernels import nothing", "kernels.nothing is not a public name of kernels"),
        ("lossscale/a.py", "import kernels\nkernels.nothing", "kernels.nothing is not a public name of kernels"),
        ("lossscale/a.py", "import kernels as k\nk.nothing", "kernels.nothing is not a public name of kernels"),
        ("bench/a.py", "from kernels.bits import _x", "kernels.bits._x is not a public name of kernels"),
        ("bench/a.py", "from lossscale.engines import run", "lossscale.engines.run is not a public name of lossscale"),
        ("bench/a.py", "from bench.timing import run", "bench.timing.run: imports inside a package are relative"),
        ("bench/a.py", "from tests.helpers import run", "bench imports the tests: tests.helpers.run"),
    ],
)
def test_a_wrong_arrow_is_found(tmp_path: Path, file: str, source: str, complaint: str) -> None:
    write_tree(tmp_path, {file: source})
    assert [line.partition(": ")[2] for line in wrong_imports(tmp_path)] == [complaint]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("kernels/a.py", "from .launch import step"),
        ("lossscale/a.py", "import kernels\nkernels.bits"),
        ("lossscale/a.py", "from kernels import bits"),
        ("lossscale/a.py", "from kernels.bits import bit_view"),
        ("lossscale/a.py", "kernels = []\nkernels.append(1)"),
        ("bench/a.py", "from lossscale.support.errors import InputError"),
        ("bench/a.py", "import torch\ntorch.kernels"),
    ],
)
def test_a_right_arrow_passes(tmp_path: Path, file: str, source: str) -> None:
    write_tree(tmp_path, {file: source})
    assert wrong_imports(tmp_path) == []


def write_tree(root: Path, files: dict[str, str]) -> None:
    public = {"kernels": ["bits"], "lossscale": ["support"], "bench": []}
    inits = {f"{package}/__init__.py": f"__all__ = {names}" for package, names in public.items()}
    for name, text in {**inits, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
