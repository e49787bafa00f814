"""``python -m bench``.

A command is one entry of `COMMANDS`: what the user types, ``module:function``, and a line for the list. The function's
signature, typed for typer, is its options; its docstring is its help; it returns None or an exit code (1: a claim or a
limit failed). Only the module of the command that is called is imported, so that ``--help`` answers at once: such a
module imports torch inside the function.
"""

import atexit
import os
import signal
import sys
import threading

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command answers it: importing leaves no traceback

from collections.abc import Sequence
from typing import NoReturn

from lossscale.support.cli import Command, run_commands

COMMANDS: tuple[Command, ...] = (
    Command(
        name="campaign",
        target="bench.campaign.campaign:campaign_command",
        help="What needs a GPU, most important first, within a time limit.",
    ),
    Command(
        name="compare",
        target="bench.store.cli:compare_command",
        help="The ratios of two timing results, with their intervals.",
    ),
    Command(
        name="conform",
        target="bench.conformance.cli:conform_command",
        help="Compare optimizers, anybody's, bit by bit with a reference.",
    ),
    Command(
        name="golden",
        target="bench.golden.cli:golden_command",
        help="Record the bits of torch.optim's CUDA kernels, and its powf.",
    ),
    Command(
        name="export",
        target="bench.store.export_cli:export_command",
        help="A timing result for the PyTorch benchmark database, or as CSV.",
    ),
    Command(
        name="report",
        target="bench.report.cli:report_command",
        help="One page of timing results, and which of them are stale.",
    ),
    Command(
        name="time step",
        target="bench.timing.cli:time_step_command",
        help="Time optimizer steps, ours and torch's, interleaved.",
    ),
    Command(
        name="tables",
        target="bench.store.tables_cli:tables_command",
        help="Fill the tables of README.md and docs/ from the kept results.",
    ),
    Command(
        name="time host",
        target="bench.timing.host_cli:time_host_command",
        help="What a step costs the host of a GPU, measured without one.",
    ),
    Command(
        name="time population",
        target="bench.timing.population.cli:time_population_command",
        help="Whole runs of many small models, beside others: bits, times.",
    ),
    Command(
        name="list",
        target="bench.listing:list_command",
        help="Providers (and why one is missing), workloads, results.",
    ),
    Command(
        name="static",
        target="bench.machine_code.cli:static_command",
        help="What the compiled step kernels contain, against their limits.",
    ),
    Command(
        name="tune",
        target="bench.timing.tune_cli:tune_command",
        help="Time launch shapes of the step kernels on a GPU, and choose one.",
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit code."""
    return run_commands(
        COMMANDS,
        prog="python -m bench",
        help="Is an optimizer step right, how fast is it, and what was compiled: conformance, timings, static limits.",
        argv=argv,
    )


def leave(code: int) -> NoReturn:
    """Ends the process, though the code of others that it ran has left threads running."""
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    leave(main())
