"""Whatever a C compiler does: the compiled look is there or done without, in silence, and not tried in vain again."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from bench.__main__ import main
from kernels.backends.simd import cache
from kernels.optim import compiling, native

IN_A_NEW_PROCESS = native._found.__wrapped__
WRITES = 'while [ "$1" != -o ]; do shift; done; '
COMPILERS = {
    "complains": ('echo "looks.c: In function f" >&2; echo "looks.c:1: error: planted" >&2; exit 3', "error: planted"),
    "says nothing": ("exit 1", "ended with 1"),
    "is killed": ("kill -9 $$", "ended with -9"),
    "writes nothing": ("exit 0", "wrote nothing"),
    "writes garbage": (WRITES + 'echo garbage > "$2"', "no whole shared object"),
    "writes an empty file": (WRITES + ': > "$2"', "no whole shared object"),
    "writes a program": (WRITES + 'cat /bin/true > "$2"', "cannot be loaded"),
    "sanitizes": (WRITES + '{ cat "$KEPT"; echo __asan_init; } > "$2"', "has a sanitizer"),
    "writes half": (WRITES + 'head -c 9000 "$KEPT" > "$2"', "no whole shared object"),
    "hangs, and so does its child": ("sleep 60 & sleep 60", "did not answer in 1 s"),
}


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache's folder, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lossscale-bench" / "simd"


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Callable[[], int]]:
    """Makes a script the machine's compiler; what comes back says how often it has been called."""
    calls = tmp_path / "calls"

    def install(script: str) -> Callable[[], int]:
        path = tmp_path / "cc"
        path.write_text(f"#!/bin/sh\necho >> {calls}\necho noise; echo noise >&2\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("CC", str(path))
        return lambda: len(calls.read_text().splitlines()) if calls.exists() else 0

    return install


def attempt() -> ModuleType | str:
    """As in a new process."""
    return IN_A_NEW_PROCESS()


def real(path: Path) -> Path:
    """A shared object as a sound compiler leaves it."""
    source = path / "x.c"
    source.write_text("int f(void) { return 1; }")
    done = subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(path / "x.so")], check=False)
    if done.returncode:
        # Optional: nothing real to cut in half, or to load.
        pytest.skip("no C compiler")
    return path / "x.so"


@pytest.mark.parametrize("how", COMPILERS)
def test_a_compiler_that_fails_is_silent_and_remembered(
    how: str,
    kept: Path,
    compiler: Callable[[str], Callable[[], int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    script, reason = COMPILERS[how]
    if "$KEPT" in script:
        monkeypatch.setenv("KEPT", str(real(tmp_path)))
    monkeypatch.setattr(compiling, "LIMIT_S", 1.0 if "hangs" in how else 20.0)
    calls = compiler(script)
    began = time.monotonic()
    first = attempt()
    assert isinstance(first, str) and reason in first and "\n" not in first and "remembered" not in first
    assert time.monotonic() - began < 5 and calls() == 1
    second = attempt()
    assert isinstance(second, str) and second.startswith(first) and "remembered; tried again in 24 h" in second
    assert calls() == 1 and capfd.readouterr() == ("", "")
    assert [path.name[:7] for path in kept.iterdir()] == ["failed-"]
    # Mended: it is another file now.
    mended = compiler('exec cc "$@"')
    if not isinstance(attempt(), str):
        assert mended() == 2 and {path.name[:6] for path in kept.iterdir()} == {"failed", "looks-"}
    assert isinstance(attempt(), ModuleType) or reason not in str(attempt())


def test_a_failure_is_forgotten_after_a_day_and_when_the_clock_was_set_back(
    kept: Path, compiler: Callable[[str], Callable[[], int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = compiler("exit 1")
    attempt()
    now = time.time()
    for number, later_s in enumerate((compiling.AGAIN_S + 60, -3600.0), start=2):
        monkeypatch.setattr(compiling.time, "time", lambda later_s=later_s: now + later_s)
        assert isinstance(attempt(), str) and calls() == number
        assert "remembered" in str(attempt()) and calls() == number


@pytest.mark.parametrize("kind", ["read-only", "no folder", "full"])
def test_where_nothing_can_be_kept_it_is_tried_again_in_silence(
    kind: str,
    kept: Path,
    compiler: Callable[[str], Callable[[], int]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    calls = compiler("exit 1")
    if kind == "no folder":
        monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    else:

        def refuse(*args: object, **options: object) -> None:
            raise OSError(28 if kind == "full" else 30, "planted")

        monkeypatch.setattr(cache.tempfile, "mkstemp", refuse)
    for number in (1, 2):
        assert "ended with 1" in str(attempt()) and calls() == number
    assert capfd.readouterr() == ("", "") and not (kept.exists() and list(kept.iterdir()))


def test_no_room_for_temporary_files_is_a_reason_and_no_crash(
    kept: Path, compiler: Callable[[str], Callable[[], int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    calls = compiler("exit 1")
    monkeypatch.setattr(compiling.tempfile, "TemporaryDirectory", refuse)
    assert "No space left on device" in str(attempt()) and calls() == 0


@pytest.mark.parametrize(
    ("value", "reason"),
    [("/nowhere/cc", "/nowhere/cc is not there"), ("cc 'x", "No closing quotation"), ("/etc/passwd", "is not there")],
)
def test_no_compiler_is_a_reason(value: str, reason: str, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", value)
    assert reason in str(attempt())


def test_without_cc_the_first_on_the_path_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(compiling.Unavailable, match="gcc is not there"):
        compiling._Compiler()
    for name in ("clang", "gcc"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
        assert compiling._Compiler().words == [str(tmp_path / name)]
    # Words behind the name are arguments: CC="ccache gcc" is usual.
    monkeypatch.setenv("CC", "clang -m64")
    assert compiling._Compiler().words == [str(tmp_path / "clang"), "-m64"]


def test_half_of_a_shared_object_is_none(tmp_path: Path) -> None:
    whole = real(tmp_path).read_bytes()
    assert compiling.is_whole(whole)
    loaded = max(place for place in range(0, len(whole), 64) if not compiling.is_whole(whole[:place]))
    # What lies behind the loaded part, names and notes of sections, is mapped by nobody.
    assert loaded > len(whole) // 2
    assert not any(map(compiling.is_whole, (b"", b"\x7fELF\x02\x01", whole[:64], b"\0" * 4096)))


def test_the_list_says_why_it_is_done_without(
    kept: Path,
    compiler: Callable[[str], Callable[[], int]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    compiler(COMPILERS["complains"][0])
    monkeypatch.setattr(native, "_found", attempt)
    assert main(["list", "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert "Tensors are looked at in Python: " in out and "error: planted" in out and not err
    assert main(["list", "--device", "cpu", "--json"]) == 0
    assert "(remembered; tried again in 24 h" in json.loads(capsys.readouterr().out)["compiled_look"]
