"""The plumbing of ``python -m lossscale`` and ``python -m bench``: typer without boxes, errors as one line.

Exit codes: 0, 1 (a claim or limit failed: the command returned 1; a worker process was lost), 2 (bad input), 130
(Ctrl-C). A bug keeps its traceback.
"""

import importlib
import itertools
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from . import interrupts
from .errors import InputError, WorkerLost, check_choice, one_line

DeviceOption = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda", help="Where to run.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
QuickOption = Annotated[bool, typer.Option("--quick", help="A small version that answers in seconds.")]


def place(text: str) -> Path:
    """The parser of paths to write to: the empty text, the working directory to Path, is likely an unset variable."""
    if not text:
        raise InputError("--out", "", "is empty; give a place, or leave it out for the default")
    return Path(text)


OutOption = Annotated[Path | None, typer.Option("--out", parser=place, metavar="PATH", help="Where to write.")]

# typer carries its own copy of click or imports click, depending on its version; both give BadParameter this base.
_KINDS = {"integer": "whole number", "float": "number", "number": "number"}
"""What click and pydantic call a kind of value, in plain words."""

_typed: ContextVar[str] = ContextVar("typed", default="")

_UsageError: type[Any] = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of `run_commands`, imported only when it is called.

    Args:
        name: what the user types, one word or two (``time step``).
        target: ``module:function``. The function is typed for typer; it returns None, or an exit code.
        help: one line for the list of commands.
    """

    name: str
    target: str
    help: str

    def load(self) -> Callable[..., Any]:
        """Imports the function."""
        module, _, function = self.target.partition(":")
        loaded: Callable[..., Any] = getattr(importlib.import_module(module), function)
        return loaded


def make_app(help: str) -> typer.Typer:
    """A typer application (or a sub-application for ``add_typer``) whose help is plain text."""
    return typer.Typer(help=help, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def run_app(app: typer.Typer, prog: str, argv: Sequence[str] | None = None) -> int:
    """Runs the application and returns the exit code.

    Args:
        app: from `make_app`; its commands return None or an exit code.
        prog: the name for usage lines, ``python -m bench``.
        argv: the arguments, by default the process's.

    Returns:
        The command's code, 2 after bad input and 1 after a lost worker (one line on standard error), 130 after Ctrl-C
        (with the words of the KeyboardInterrupt, if it carries some), 1 if nobody reads standard output any more, 2 if
        it cannot be written. Any other exception passes through.
    """
    # The group is called without typer's own main, which would draw errors in boxes and swallow an interrupt's words.
    group = typer.main.get_command(_prepared(app))
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    _typed.set(shlex.join([*prog.split(), *arguments]))
    _open_streams()
    try:
        with interrupts.noted(), group.make_context(prog, arguments) as context:
            result = group.invoke(context)
            # Now, and not at exit, where an error has no handler.
            sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except typer.Exit as done:
        return int(done.exit_code)
    except InputError as error:
        return _fail(str(error), 2)
    except WorkerLost as lost:
        return _fail(str(lost), 1)
    except _UsageError as error:
        return _fail(_usage_message(error, arguments, prog), 2)
    except (KeyboardInterrupt, typer.Abort) as interrupt:
        print(f"\n{interrupt}" if str(interrupt) else "\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has gone (… | head).
        _forget_stdout()
        return 1
    except OSError as error:
        if error.filename is not None or not _stdout_fails():
            raise
        _forget_stdout()
        return _fail(f"standard output: cannot be written ({error.strerror}); give it a place that can", 2)
    finally:
        interrupts.forget()


def run_commands(commands: Sequence[Command], *, prog: str, help: str, argv: Sequence[str] | None = None) -> int:
    """Like `run_app`, from a table of commands of which only the one that is called is imported."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    app = make_app(help)
    groups: dict[str, typer.Typer] = {}
    for command in commands:
        *group, leaf = command.name.split()
        parent = app
        for word in group:
            if word not in groups:
                groups[word] = make_app("")
                app.add_typer(groups[word], name=word, help=_group_help(word, commands))
            parent = groups[word]
        words = command.name.split()
        if arguments[: len(words)] == words:
            parent.command(leaf)(command.load())
        else:
            parent.command(leaf, help=command.help)(_not_called)
    return run_app(app, prog, arguments)


def command_line() -> str:
    """What was typed for the command that runs, quoted for a shell."""
    return _typed.get()


def resolve_device(value: str, argument: str = "--device", remedy: str = "give cpu or auto") -> str:
    """Returns ``cpu`` or ``cuda`` for ``auto``, ``cpu`` or ``cuda``; an error if there is no such device here."""
    check_choice(argument, value, ("auto", "cpu", "cuda"))
    if value == "cpu":
        return value
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if value == "cuda":
        raise InputError(argument, value, f"torch finds no CUDA device here; {remedy}")
    return "cpu"


def _open_streams() -> None:
    """What was closed for this process (``>&-``) goes nowhere: the next file must not be opened in its place."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest that is free, which is this one.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, "w" if descriptor else "r", closefd=False))  # noqa: SIM115


def _stdout_fails() -> bool:
    """Whether what is printed cannot be written, to a full disk say."""
    try:
        sys.stdout.flush()
        # Without a buffer nothing is left that would show it.
        os.write(sys.stdout.fileno(), b"\n")
    except OSError:
        return True
    return False


def _forget_stdout() -> None:
    """Python flushes standard output once more at exit: give it a place to write."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> int:
    print(f"error: {one_line(message)}", file=sys.stderr)
    return code


def _usage_message(error: Any, arguments: Sequence[str], prog: str) -> str:
    """What typer found wrong with the arguments, with the value that it leaves out, and where the remedy is."""
    context = getattr(error, "ctx", None)
    text = error.format_message().rstrip(".")
    words = error.message if isinstance(error, typer.BadParameter) else ""
    for kind, plain in _KINDS.items():
        if f"valid {kind}" in words:
            words = f"is no {plain}"
    if isinstance(error, typer.BadParameter):
        options = error.param.opts if error.param is not None else []
        given = [value for option in options for value in _values(arguments, option)]
        if given:
            text = f"{options[0]} {', '.join(given)}: {words.rstrip('.')}"
    return f"{text}; see {context.command_path if context else prog} --help"


def _values(arguments: Sequence[str], option: str) -> list[str]:
    following = [after for before, after in itertools.pairwise(arguments) if before == option]
    joined = [argument.removeprefix(f"{option}=") for argument in arguments if argument.startswith(f"{option}=")]
    return following + joined


def _prepared(app: typer.Typer) -> typer.Typer:
    if app.registered_callback is None:
        # Without a callback typer makes the only command of an application the application itself.
        app.callback()(_no_callback)
    for command in app.registered_commands:
        if command.help is None and command.callback is not None:
            command.help = _summary(command.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            _prepared(group.typer_instance)
    return app


def _no_callback() -> None:
    pass


def _not_called() -> None:
    raise AssertionError("only the command that was asked for is imported")


def _group_help(word: str, commands: Sequence[Command]) -> str:
    leaves = [command.name.split()[-1] for command in commands if command.name.startswith(f"{word} ")]
    return f"One of: {', '.join(leaves)}."


def _summary(function: Callable[..., Any]) -> str:
    """The docstring up to its sections: the options describe themselves in typer's own list."""
    lines = []
    for line in (function.__doc__ or "").splitlines():
        if line.strip() in {"Args:", "Returns:", "Raises:"}:
            break
        lines.append(line.strip())
    return "\n".join(lines).strip()
