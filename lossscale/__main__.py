"""``python -m lossscale``: each command is imported only when it is called, so that ``--help`` answers at once."""

import gc
import signal
import sys

if __name__ == "__main__":
    gc.set_threshold(50_000, 20, 100)  # importing torch makes many objects and no garbage: a fifth of its time
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command answers it: importing leaves no traceback

from collections.abc import Sequence

from .support.cli import Command, run_commands

COMMANDS = (
    Command(
        name="list", target="lossscale.commands:list_studies", help="The studies, what each shows and what it costs."
    ),
    Command(name="run", target="lossscale.commands:run", help="Run a study, or every study, and print its table."),
    Command(name="show", target="lossscale.commands:show", help="One pair's trajectory."),
    Command(name="report", target="lossscale.showing:report", help="The HTML page of runs."),
    Command(name="verdicts", target="lossscale.showing:verdicts", help="What became of every prediction of runs."),
    Command(name="picture", target="lossscale.showing:picture", help="The picture of a run, such as the README's."),
    Command(name="keep", target="lossscale.showing:keep", help="The tables and pictures that documents keep of a run."),
    Command(
        name="rescale",
        target="lossscale.rescale.command:command",
        help="What to set when the loss was multiplied by S.",
    ),
    Command(
        name="inspect",
        target="lossscale.inspection.command:command",
        help="Where a saved optimizer state stands: eps, stalls, margins.",
    ),
    Command(name="convert-eps", target="lossscale.conventions:command", help="The same eps in another convention."),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit code."""
    return run_commands(
        COMMANDS,
        prog="python -m lossscale",
        help="What changes in training when the loss is multiplied by s, measured on thousands of paired models.",
        argv=argv,
    )


if __name__ == "__main__":
    sys.exit(main())
