"""How kept results changed: the versions of a result file in the repository's history, and their headline numbers."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lossscale.support.errors import InputError

from ..store.load import Result, parse_result

_MOST = 40


@dataclass(frozen=True, kw_only=True)
class Version:
    """A result as a commit left it.

    Attributes:
        revision, date, subject: of the commit.
        result: what stood there; None where today's code cannot read it.
    """

    revision: str
    date: str
    subject: str
    result: Result | None


def versions(path: Path) -> list[Version]:
    """Every version of a file, the latest first, at most forty; none where there is no history."""
    listed = _git(path.parent, "log", f"-{_MOST}", "--format=%h%x09%cs%x09%s", "--", path.name)
    return [_version(path, *line.split("\t", 2)) for line in (listed or "").splitlines()]


def _version(path: Path, revision: str, date: str, subject: str) -> Version:
    text = _git(path.parent, "show", f"{revision}:./{path.name}")
    try:
        result = parse_result(text or "", "RESULT", path)
    except InputError:
        result = None
    return Version(revision=revision, date=date, subject=subject, result=result)


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


@dataclass(frozen=True, kw_only=True)
class Headline:
    """A number that stands for a result: a time of ours over torch's, or the share of a copy."""

    title: str
    ours: str
    torch: str | None
    optimizer: str
    workload: str
    measure: str

    def of(self, result: Result) -> float | None:
        """The number; None where the result has not what it takes."""
        mine = self._time(result, self.ours)
        if self.torch is None:
            return mine
        theirs = self._time(result, self.torch)
        return mine / theirs if mine and theirs else None

    def _time(self, result: Result, provider: str) -> float | None:
        for (name, optimizer, dtype, workload, _), row in result.rows.items():
            if (name.partition("[")[0], optimizer, dtype, workload) == (
                provider,
                self.optimizer,
                "fp32",
                self.workload,
            ):
                found = row.measured(self.measure)
                if found is not None:
                    return found
        return None


def headlines() -> Iterator[Headline]:
    """What the history shows of every version."""
    share: Mapping[str, Any] = {"torch": None, "measure": "share_of_copy"}
    step: Mapping[str, Any] = {"measure": "step_time_ns"}
    yield Headline(
        title="AdamW 2^26, share of a copy", ours="kernels-foreach", optimizer="AdamW", workload="2^26", **share
    )
    yield Headline(title="SGD 2^26, share of a copy", ours="kernels-foreach", optimizer="SGD", workload="2^26", **share)
    for workload in ("2^20", "10000x64", "gpt2-124m"):
        for recipe in ("fused", "foreach"):
            yield Headline(
                title=f"AdamW {workload}, step ÷ torch {recipe}",
                ours=f"kernels-{recipe}",
                torch=f"torch-{recipe}",
                optimizer="AdamW",
                workload=workload,
                **step,
            )
