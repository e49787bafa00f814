"""Everything that needs a GPU, most important first, inside a time limit: `python -m bench campaign`.

Each part runs in a process of its own with a share of the time left, and leaves rows in at most six flat files that
are rewritten whole as it goes. A part that crashes, hangs or loses the device is a recorded outcome, and the next
part starts clean. Nothing is imported beyond the packages of a GPU machine.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from lossscale.support import cli, errors, files

from ..choices import choose_all
from ..store.kept import read_own
from ..tracebacks import kept_traceback, without_places
from ..workers import Batch, Loss, Pool

_MAX_LINES = 100
# After its share, a part gets this long to write its last file before it is ended; at the campaign's end, as long as
# is kept for that.
_GRACE_S, _CLOSING_S = 20.0, 5.0
# No part begins with less; a dry run walks all of them, so that its parts have so much however late it is.
_LEAST_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of the campaign: a function `run(out, deadline, dry_run)` and its share of the time that is left."""

    name: str
    target: str
    share: float


@dataclass(frozen=True, kw_only=True)
class Call:
    """A part to be run in a process of its own; what it prints goes into the file `said`.

    The deadline is one of `time.monotonic`, which all processes of a machine share: a part's own start counts.
    """

    part: Part
    out: Path
    deadline: float
    dry_run: bool
    said: Path


PARTS = (
    Part(name="conform", target="bench.campaign.parts:conform", share=0.5),
    Part(name="steps", target="bench.campaign.parts:steps", share=0.6),
    Part(name="population", target="bench.campaign.parts:population", share=0.5),
    Part(name="study", target="bench.campaign.parts:study", share=0.4),
    Part(name="golden", target="bench.campaign.parts:replay_golden", share=0.3),
    Part(name="unconfirmed", target="bench.campaign.parts:unconfirmed", share=0.2),
    Part(name="tune", target="bench.campaign.parts:tune", share=0.3),
    Part(name="timing", target="bench.campaign.parts:timing", share=1.0),
)


def campaign_command(
    out: Annotated[
        Path, typer.Option("--out", parser=cli.place, metavar="DIRECTORY", help="Directory for the result files.")
    ],
    minutes: Annotated[float, typer.Option("--minutes", metavar="M", help="Time limit for everything.")] = 8.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Walk all of it on the CPU at toy size.")] = False,
    parts: Annotated[list[str] | None, typer.Option("--part", metavar="NAME", help="Run only these parts.")] = None,
) -> int:
    """Conformance, golden vectors, open questions, a study and timings on this machine's GPU.

    Args:
        out: at most six files are written there.
        minutes: parts that do not fit are cut short, and say so.
        dry_run: on the CPU, tiny.
        parts: names out of `PARTS`, by default all.

    Returns:
        1 when a part failed or none had time to run, 0 otherwise.
    """
    if not 0 < minutes <= 1440:
        raise errors.InputError("--minutes", minutes, "must be above 0 and at most 1440")
    chosen = choose_all("--part", parts, [part.name for part in PARTS])
    if not dry_run:
        cli.resolve_device("cuda", "device", "give --dry-run to walk it on the CPU")
    files.make_directory(out)
    for name in ("conform.json", "timing.json"):
        # Parts write their sections into what is there.
        read_own(out / name, "--out")
    deadline = time.monotonic() + 60 * minutes
    lines: list[str] = []
    outcomes: list[str] = []
    for part in (p for p in PARTS if p.name in chosen):
        began = time.monotonic()
        budget_s = (deadline - began - _CLOSING_S) * part.share
        if budget_s < _LEAST_S and not dry_run:
            lines.append(f"- {part.name}: not run, no time left")
        else:
            budget_s = max(budget_s, _LEAST_S)
            outcomes.append(_run_part(part, out, budget_s, deadline, dry_run))
            took = time.monotonic() - began
            lines.append(f"- {part.name}: {outcomes[-1] or 'done'} in {took:.0f} s (limit {budget_s:.0f} s)")
        print(lines[-1], flush=True)
        _summarise(out, lines, minutes, dry_run)
    print((out / "summary.md").read_text(), flush=True)
    return int(any(outcomes) or not outcomes)


def _run_part(part: Part, out: Path, budget_s: float, ends: float, dry_run: bool) -> str:
    """Run a part in a process, within its budget and, if it does not end by itself, about the campaign's end."""
    now = time.monotonic()
    grace_s = min(_GRACE_S, max(_CLOSING_S, ends - now - budget_s))
    with tempfile.TemporaryDirectory(prefix="campaign-") as held:
        call = Call(part=part, out=out, deadline=now + budget_s, dry_run=dry_run, said=Path(held) / "said.txt")
        # A part starts workers of its own: they are ended with it.
        pool: Pool[Call, str] = Pool(
            count=1,
            limit_s=budget_s + grace_s,
            lost=_lost,
            setup=None,
            leads=True,
            environment={"PYTHONUNBUFFERED": "1"},
        )
        (outcome,) = pool.run([Batch(work=run_part, items=(call,))]).results
        print(_said(call)[-4000:], end="", flush=True)
    return outcome


def _lost(batch: Batch[Call, str], call: Call, loss: Loss) -> str:
    del batch
    return f"{loss.text.strip().splitlines()[-1]}; {_tail(_said(call))}"


def _said(call: Call) -> str:
    return without_places(call.said.read_text(errors="replace")) if call.said.exists() else ""


def _tail(output: str) -> str:
    return " | ".join(line for line in output.strip().splitlines()[-3:])[:300]


def _summarise(out: Path, lines: list[str], minutes: float, dry_run: bool) -> None:
    from . import summary

    try:
        body = summary.lines(out)
    except Exception:
        body = ["", "The summary could not be made:", "", *kept_traceback().splitlines()[-12:]]
    title = "# GPU campaign" + (" (dry run on the CPU)" if dry_run else "")
    text = [title, "", f"Limit {minutes:g} minutes.", "", *lines, "", *body]
    if len(text) > _MAX_LINES:
        text = [*text[: _MAX_LINES - 1], f"… {len(text) - _MAX_LINES + 1} more lines in conform.json and timing.json"]
    files.write_text(out / "summary.md", "\n".join(text) + "\n")


def run_part(call: Call) -> str:
    """Run one part in this process, which is its own; what it says goes into a file."""
    import importlib

    with call.said.open("wb") as stream:
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)
    module, _, function = call.part.target.partition(":")
    run: Callable[[Path, float, bool], Any] = getattr(importlib.import_module(module), function)
    try:
        run(call.out, call.deadline, call.dry_run)
    except Exception:
        print(kept_traceback(), file=sys.stderr)
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return ""
