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
        help="Everything that needs a GPU, most important first, within a time limit.",
    ),
    Command(
        name="compare",
        target="bench.store.cli:compare_command",
        help="Two timing results: the ratio of every two times, with its interval.",
    ),
    Command(
        name="conform",
        target="bench.conformance.cli:conform_command",
        help="Compare optimizers, anybody's, bit by bit with a reference.",
    ),
    Command(
        name="golden",
        target="bench.golden.cli:golden_command",
        help="Record the bits of torch.optim's CUDA kernels, and its powf tables.",
    ),
    Command(
        name="export",
        target="bench.store.export_cli:export_command",
        help="A timing result as records of the PyTorch benchmark database, or as CSV with a line a sample.",
    ),
    Command(
        name="report",
        target="bench.report.cli:report_command",
        help="One page of timing results; --check-fresh says whether a GPU's match today's kernels.",
    ),
    Command(
        name="time step",
        target="bench.timing.cli:time_step_command",
        help="Time optimizer steps, ours and torch's, interleaved.",
    ),
    Command(
        name="tables",
        target="bench.store.tables_cli:tables_command",
        help="Fill the measured tables of README.md and docs/ from the kept results; --check says whether they differ.",
    ),
    Command(
        name="time host",
        target="bench.timing.host_cli:time_host_command",
        help="What a step costs the host on a GPU, measured without one, and what it would send.",
    ),
    Command(
        name="time population",
        target="bench.timing.population.cli:time_population_command",
        help="Whole runs of many small models: bits, the chain from torch.optim, times beside JAX and torch.func.",
    ),
    Command(
        name="list",
        target="bench.listing:list_command",
        help="Providers (and why one is missing), workloads, results.",
    ),
    Command(
        name="static",
        target="bench.machine_code.cli:static_command",
        help="What the compiled step kernels contain; exit 1 when a limit is broken.",
    ),
    Command(
        name="tune",
        target="bench.timing.tune_cli:tune_command",
        help="Measure the launch shapes of the step kernels on a GPU, and write the one chosen.",
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
