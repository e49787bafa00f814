"""Everything that needs a GPU, most important first, inside a time limit: `python -m bench campaign`.

Each part runs in a process of its own with a share of the time left, and leaves rows in at most six flat files that
are rewritten whole as it goes. A part that crashes, hangs or loses the device is a recorded outcome, and the next
part starts clean. Nothing is imported beyond the packages of a GPU machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from lossscale.support import cli, errors, files

_MAX_LINES = 100
# After its share, a part gets this long to write its last file before it is ended.
_GRACE_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of the campaign: a function `run(out, deadline, dry_run)` and its share of the time that is left."""

    name: str
    target: str
    share: float


PARTS = (
    Part(name="conform", target="bench.campaign_parts:conform", share=0.5),
    Part(name="golden", target="bench.campaign_parts:replay_golden", share=0.3),
    Part(name="unconfirmed", target="bench.campaign_parts:unconfirmed", share=0.2),
    Part(name="timing", target="bench.campaign_parts:timing", share=1.0),
)


def campaign_command(
    out: Annotated[Path, typer.Option("--out", help="Directory for the result files.")],
    minutes: Annotated[float, typer.Option("--minutes", help="Time limit for everything.")] = 8.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Walk all of it on the CPU at toy size.")] = False,
    parts: Annotated[list[str] | None, typer.Option("--part", help="Run only these parts.")] = None,
) -> int:
    """Conformance, golden vectors, open questions and timings on this machine's GPU.

    Args:
        out: at most six files are written there.
        minutes: parts that do not fit are cut short, and say so.
        dry_run: on the CPU, tiny.
        parts: names out of `PARTS`, by default all.

    Returns:
        0 when every part ran to its end or its limit, 1 otherwise.
    """
    if not 0 < minutes <= 1440:
        raise errors.InputError("--minutes", minutes, "must be above 0 and at most 1440")
    for name in parts or ():
        errors.check_choice("--part", name, [part.name for part in PARTS])
    if not dry_run:
        cli.resolve_device("cuda")
    files.make_directory(out)
    deadline = time.monotonic() + 60 * minutes
    lines: list[str] = []
    failed = False
    for part in (p for p in PARTS if not parts or p.name in parts):
        began = time.monotonic()
        budget_s = (deadline - began) * part.share
        if budget_s < 5 and not dry_run:
            lines.append(f"- {part.name}: not run, no time left")
            continue
        outcome = _run_part(part, out, max(budget_s, 5.0), dry_run)
        failed |= bool(outcome)
        took = time.monotonic() - began
        lines.append(f"- {part.name}: {outcome or 'done'} in {took:.0f} s (limit {budget_s:.0f} s)")
        print(lines[-1], flush=True)
        _summarise(out, lines, minutes, dry_run)
    print((out / "summary.md").read_text(), flush=True)
    return int(failed)


def _run_part(part: Part, out: Path, budget_s: float, dry_run: bool) -> str:
    """Run a part in a process; "" or what went wrong."""
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "bench.campaign", "part", part.name, str(out), str(budget_s), str(int(dry_run))]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=budget_s + _GRACE_S)
        except subprocess.TimeoutExpired:
            _end_group(process)
            output, _ = process.communicate()
            return f"ended after {budget_s + _GRACE_S:.0f} s without an answer; {_tail(output)}"
        except KeyboardInterrupt:
            _end_group(process)
            raise
    print(output[-4000:], end="", flush=True)
    return "" if process.returncode == 0 else f"exit code {process.returncode}; {_tail(output)}"


def _end_group(process: subprocess.Popen[str]) -> None:
    """End a part together with its workers: it was started as the leader of a process group."""
    import signal

    os.killpg(process.pid, signal.SIGKILL)


def _tail(output: str) -> str:
    return " | ".join(line for line in output.strip().splitlines()[-3:])[:300]


def _summarise(out: Path, lines: list[str], minutes: float, dry_run: bool) -> None:
    from . import campaign_summary

    try:
        body = campaign_summary.lines(out)
    except Exception:
        body = ["", "The summary could not be made:", "", *traceback.format_exc().splitlines()[-12:]]
    title = "# GPU campaign" + (" (dry run on the CPU)" if dry_run else "")
    text = [title, "", f"Limit {minutes:g} minutes.", "", *lines, "", *body]
    if len(text) > _MAX_LINES:
        text = [*text[: _MAX_LINES - 1], f"… {len(text) - _MAX_LINES + 1} more lines in conform.json and timing.json"]
    files.write_text(out / "summary.md", "\n".join(text) + "\n")


def run_part(name: str, out: Path, budget_s: float, dry_run: bool) -> int:
    """Run one part in this process."""
    import importlib

    part = next(p for p in PARTS if p.name == name)
    module, _, function = part.target.partition(":")
    run: Callable[[Path, float, bool], Any] = getattr(importlib.import_module(module), function)
    run(out, time.monotonic() + budget_s, dry_run)
    return 0


def main(arguments: list[str]) -> int:
    """`python -m bench.campaign`: the command itself, or `part NAME OUT SECONDS DRY` in a process of its own."""
    if arguments[:1] == ["part"]:
        _, name, out, budget_s, dry_run = arguments
        return run_part(name, Path(out), float(budget_s), dry_run == "1")
    app = cli.make_app("Everything that needs a GPU.")
    app.command("campaign")(campaign_command)
    return cli.run_app(app, "python -m bench", ["campaign", *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
