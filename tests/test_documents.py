"""What README.md, CONTRIBUTING.md and docs/ name exists: links, files, commands with their options, targets, names."""

import contextlib
import importlib
import io
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import bench.__main__
import lossscale.__main__
from lossscale import studies

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MAINS: dict[str, Any] = {"lossscale": lossscale.__main__, "bench": bench.__main__}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"(?:python -m )?\b(lossscale|bench) ([a-z][^\n]*)")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
FILE = re.compile(r"(?<![\w.~/-])(?:[\w.-]+/)*[\w.-]+\.(?:py|md|c|npz|toml|txt|yaml|sh)\b")
OF_A_RUN = {"pairs", "writers"}
"""Folders in a run's directory."""
SHOWN_ONLY = {"eps-only", "lossscale/studies/eps_only.py"}
"""The study that CONTRIBUTING.md shows how to add (tests/lossscale/test_additions.py adds it)."""
ELSEWHERE = {"is_kernels_available", "torch_optimizer", "hub_kernels", "_q50", "_q95"}
"""Names of other packages, of a reader's script, and ends of names."""

each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)


def prose(path: Path) -> str:
    """Without blocks of code, whose lines stay empty."""
    return BLOCK.sub(lambda block: "\n" * block.group().count("\n"), path.read_text(encoding="utf-8"))


def spans(path: Path) -> list[str]:
    """What stands between backticks, on one line each."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(path))]


def commands(path: Path) -> list[tuple[str, str]]:
    """Package and words of every command of ours, in prose and in blocks."""
    blocks = [body.replace("\\\n", " ") for _, body in BLOCK.findall(path.read_text(encoding="utf-8"))]
    lines = [line.partition(" #")[0] for body in blocks for line in body.splitlines() if "python -m" in line]
    found = [match for text in (*spans(path), *lines) for match in COMMAND.finditer(text.replace("&&", "\n"))]
    return [(match[1], match[2]) for match in found]


@cache
def files() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    return listed or [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if ".venv" not in str(path)]


@cache
def words() -> set[str]:
    """Every word of the sources."""
    texts = (ROOT / name for name in files() if name.endswith((".py", ".c", ".toml")) and "test_documents" not in name)
    return {word for path in texts for word in re.findall(r"\w+", path.read_text(encoding="utf-8"))}


def anchors(path: Path) -> set[str]:
    """Of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", [*DOCUMENTS, ROOT / "CHANGELOG.md"], ids=lambda path: path.stem)
def test_links_lead_to_files_and_headings(path: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]+`", "", prose(path)))
    broken = []
    for link in links:
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@each_document
def test_files_and_folders_exist(path: Path) -> None:
    known = {f"/{name}" for file in files() for name in (file, *map(str, Path(file).parents))}
    named = {name for span in spans(path) for name in FILE.findall(span)}
    named |= {span.rstrip("/") for span in spans(path) if re.fullmatch(r"[\w./-]+/", span)}
    named = {name for name in named if not re.search(r"[A-Z]{3}.*/|/[A-Z]{3}", name)} - OF_A_RUN - SHOWN_ONLY
    assert sorted(name for name in named if not any(one.endswith(f"/{name}") for one in known)) == []


@cache
def options(package: str, name: str) -> set[str]:
    """Of a command, as its help has them."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert MAINS[package].main([*name.split(), "--help"]) == 0
    return set(OPTION.findall(printed.getvalue()))


def command_of(package: str, typed: str) -> str:
    """The command's name, empty where there is none."""
    words = typed.split()
    names = {command.name for command in MAINS[package].COMMANDS}
    return next((name for name in (" ".join(words[:2]), words[0]) if name in names), "")


@each_document
def test_commands_exist_with_their_options(path: Path) -> None:
    wrong = []
    for package, typed in commands(path):
        name = command_of(package, typed)
        if not name:
            wrong.append(f"{package} {typed}")
            continue
        wrong += [
            f"{package} {name} {option}" for option in OPTION.findall(typed) if option not in options(package, name)
        ]
        study = typed.split()[1:2] if (package, name) == ("lossscale", "run") else []
        if study and re.fullmatch(r"[a-z][\w-]*", study[0]) and study[0] not in {"all", *studies.names(), *SHOWN_ONLY}:
            wrong.append(f"study {study[0]}")
    assert wrong == []


@pytest.mark.parametrize("words", [("lossscale",), ("bench",), ("bench", "time")], ids=" ".join)
def test_lists_of_commands_are_whole_in_80_columns(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert MAINS[words[0]].main([*words[1:], "--help"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.endswith("...") and "Usage" not in line] == []


def test_help_and_page_name_the_studies_with_a_grid(capsys: pytest.CaptureFixture[str]) -> None:
    *most, last = [study.name for study in studies.every() if study.grid is not None]
    assert lossscale.__main__.main(["run", "--help"]) == 0
    assert f"The studies with a grid, {', '.join(most)} and {last}, take" in " ".join(capsys.readouterr().out.split())
    assert f"for the studies with a grid: {', '.join([*most, last])}, and" in (ROOT / "docs" / "scale.md").read_text()


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {
        match
        for path in DOCUMENTS
        for text in (*spans(path), *(line for _, body in BLOCK.findall(path.read_text()) for line in body.splitlines()))
        for match in re.findall(r"^make ([a-z][\w-]*)", text)
    }
    assert len(named) >= 6 and named - targets == set()


@each_document
def test_names_of_our_packages_resolve(path: Path) -> None:
    """`kernels.AdamW`, `lossscale.support.files`, and words with an underscore: those occur in the sources."""
    unknown = []
    for span in spans(path):
        for dotted in re.findall(r"(?<![\w./-])((?:kernels|lossscale|bench)(?:\.[A-Za-z_]\w*)+)", span):
            found: Any = None
            for part in dotted.split("."):
                found = (
                    importlib.import_module(part)
                    if found is None
                    else getattr(found, part, None) or _module(found, part)
                )
                if found is None:
                    unknown.append(dotted)
                    break
        unknown += [
            word
            for word in re.findall(r"\b\w*[a-z]_\w*\b", span)
            if word not in words() | ELSEWHERE and "." not in span
        ]
    assert unknown == []


def _module(parent: Any, name: str) -> Any:
    try:
        return importlib.import_module(f"{parent.__name__}.{name}")
    except ModuleNotFoundError:
        return None


def test_commands_are_found() -> None:
    found = [command for path in DOCUMENTS for command in commands(path)]
    assert len(found) > 80
    assert ("bench", "compare before.json after.json --fail-above 1.05") in [(a, b.strip()) for a, b in found]
