import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import pytest
import typer

from lossscale.support.cli import Command, DeviceOption, make_app, resolve_device, run_app, run_commands
from lossscale.support.errors import InputError

ROOT = Path(__file__).resolve().parents[1]


def example(
    study: str, inits: Annotated[int, typer.Option("--inits", help="How many.")] = 1, device: DeviceOption = "auto"
) -> int:
    """Runs a study.

    Args:
        study: its name.
        inits: how many.
        device: where.
    """
    if study == "bad":
        raise InputError("STUDY", study, "unknown; choose from good")
    if study == "bug":
        raise ValueError("an internal error")
    if study == "stop":
        raise KeyboardInterrupt("stopped; continue with --resume")
    return 1 if study == "fails" else 0


def call(*arguments: str) -> int:
    app = make_app("An example.")
    app.command("run")(example)
    return run_app(app, "prog", arguments)


@pytest.mark.parametrize(("study", "code"), [("good", 0), ("fails", 1)])
def test_the_commands_code_is_returned(study: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", study) == code
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["run", "bad"], "error: STUDY bad: unknown; choose from good"),
        (["run", "good", "--init", "3"], "--init"),
        (["run", "good", "--inits", "three"], "error: --inits three: "),
        (["run", "good", "--inits=three"], "error: --inits three: "),
        (["run"], "study"),
        (["run", "good", "more"], "more"),
        (["walk"], "'walk'"),
    ],
)
def test_bad_input_is_one_line_and_code_2(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert line in err
    assert err.count("\n") == 1 and err.endswith("\n")
    assert "bad" in arguments or err.endswith(" --help\n")


def test_an_interrupt_is_130_with_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "stop") == 130
    assert capsys.readouterr().err == "\nstopped; continue with --resume\n"


INTERRUPTED = """
import sys
from lossscale.support.cli import make_app, run_app

def example() -> None:
    exec("raise KeyboardInterrupt")  # as an import is interrupted that makes dataclasses

app = make_app("An example.")
app.command("run")(example)
sys.exit(run_app(app, "prog", ["run"]))
"""


def test_an_interrupted_exec_is_130_too(tmp_path: Path) -> None:
    (tmp_path / "interrupted.py").write_text(INTERRUPTED)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "interrupted"],  # only -m: a script's end makes Python forget
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (130, "\ninterrupted\n")


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ValueError, match="an internal error"):
        call("run", "bug")


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert call() == 0
    out = capsys.readouterr().out
    assert "An example." in out and "run" in out
    assert "─" not in out


def test_only_the_called_command_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "toy_commands.py").write_text(
        'def population(models: int = 3) -> int:\n    """Times them."""\n    return models\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    commands = [
        Command(name="time step", target="no.such.module:f", help="Times steps."),
        Command(name="time population", target="toy_commands:population", help="Times populations."),
        Command(name="list", target="no.such.module:f", help="Lists."),
    ]

    def run(*arguments: str) -> tuple[int, str]:
        code = run_commands(commands, prog="prog", help="A table.", argv=arguments)
        return code, capsys.readouterr().out

    assert "Lists." in run("--help")[1]
    assert "Times steps." in run("time", "--help")[1]
    assert "toy_commands" not in sys.modules
    assert run("time", "population") == (3, "")
    code, text = run("time", "population", "--help")
    assert code == 0
    assert "Times them." in text and "--models" in text
    with pytest.raises(ModuleNotFoundError, match="no"):
        run("list")


def test_a_docstrings_sections_stay_out_of_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "--help") == 0
    text = capsys.readouterr().out
    assert "Runs a study." in text and "How many." in text
    assert "Args" not in text


def test_devices() -> None:
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") in {"cpu", "cuda"}
    with pytest.raises(InputError, match=r"--device gpu: unknown; .*choose from auto, cpu, cuda"):
        resolve_device("gpu")


def test_cuda_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert resolve_device("auto") == "cpu"
    with pytest.raises(InputError, match="--device cuda: torch finds no CUDA device"):
        resolve_device("cuda")


@pytest.mark.parametrize("package", ["lossscale", "bench"])
def test_help_answers_without_torch(package: str) -> None:
    check = f"""
import runpy, sys
sys.argv = ["{package}", "--help"]
try:
    runpy.run_module("{package}", run_name="__main__")
except SystemExit as done:
    assert not done.code, done.code
heavy = {{"torch", "triton", "pandas", "scipy", "sklearn"}} & set(sys.modules)
assert not heavy, heavy
"""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", check], check=True, cwd=ROOT, capture_output=True)
    assert time.monotonic() - started < 5  # one second is the promise; the tests share two cores


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    script = """
import sys
from lossscale.support.cli import make_app, run_app
app = make_app("x")
@app.command()
def lines() -> None:
    for number in range(100_000):
        print(number)
sys.exit(run_app(app, "prog", ["lines"]))
"""
    writer = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, text=True
    )
    assert writer.stdout is not None and writer.stderr is not None
    writer.stdout.readline()
    writer.stdout.close()
    assert writer.stderr.read() == ""
    writer.stderr.close()
    assert writer.wait() == 1


@pytest.mark.parametrize("option", ["", "-u"])
@pytest.mark.parametrize(
    ("redirection", "code", "error"),
    [
        (">&-", 0, ""),
        ("<&- >&-", 0, ""),
        (
            "> /dev/full",
            2,
            "standard output: cannot be written (No space left on device); give it a place that can",
        ),
    ],
)
def test_standard_output_that_is_closed_or_full(option: str, redirection: str, code: int, error: str) -> None:
    text = "import os, sys; from lossscale.support.cli import make_app, run_app; app = make_app('x')\n"
    text += "def run(): print('said'); os.close(os.open('/dev/null', os.O_RDONLY)) if sys.stdout else 1 / 0\n"
    text += "app.command('run')(run); sys.exit(run_app(app, 'prog', ['run']))"
    command = f"'{sys.executable}' {option} -c \"$TEXT\" {redirection}"
    done = subprocess.run(
        ["sh", "-c", command], env={**os.environ, "TEXT": text}, capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (done.returncode, done.stderr.strip().removeprefix("error: ")) == (code, error)


def test_an_error_of_the_system_that_is_not_standard_outputs_keeps_its_traceback() -> None:
    def run() -> None:
        raise OSError(28, "No space left on device", "a file")

    app = make_app("An example.")
    app.command("run")(run)
    with pytest.raises(OSError, match="a file"):
        run_app(app, "prog", ["run"])


def test_processes_that_are_started_deaf_do_not_hear_an_interrupt() -> None:
    # The helper of multiprocessing, which the first process starts, lets signals through again.
    text = "import multiprocessing, os, signal, sys, time; from lossscale.support.processes import deaf\n"
    text += "if __name__ == '__main__':\n"
    text += "    context = multiprocessing.get_context('spawn')\n"
    text += "    with deaf():\n"
    text += "        worker = context.Process(target=signal.pthread_sigmask, args=(signal.SIG_BLOCK, []))\n"
    text += "        worker.start()\n"
    text += "        blocked = int(open(f'/proc/{worker.pid}/status').read().split('SigBlk:')[1].split()[0], 16)\n"
    text += "    worker.join()\n"
    text += (
        "    print(blocked >> (signal.SIGINT - 1) & 1, signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["1", "False"]
