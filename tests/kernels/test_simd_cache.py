"""Object code on disk: kept whole, by its owner alone, and never needed."""

import ctypes
import os
from pathlib import Path

import pytest

from kernels.backends.simd import cache, machine
from kernels.backends.simd.code import Code

pytestmark = pytest.mark.skipif(bool(machine.unavailable()), reason=f"no simd backend: {machine.unavailable()}")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "lossscale-bench" / "simd"


def text(number: int) -> str:
    code = Code("nothing", [("ptr", "x")])
    code.do(f"store i64 {number}, ptr %x")
    return code.text()


def test_what_is_written_is_read(home: Path) -> None:
    assert cache.read("key") is None
    cache.write("key", b"code")
    assert cache.read("key") == b"code" and cache.read("other") is None
    assert [path.name for path in home.iterdir()] == ["key"]
    assert home.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("damage", [b"", b"lossscale", None])
def test_damaged_code_is_made_anew(home: Path, damage: bytes | None) -> None:
    made = machine.assemble(text(1))
    (path,) = home.iterdir()
    path.write_bytes(path.read_bytes()[:-1] if damage is None else damage)
    assert cache.read(path.name) is None
    assert machine.assemble(text(1)) == made == cache.read(path.name)


def test_a_changed_byte_of_code_is_never_run(home: Path) -> None:
    number = 0x12345678
    made = machine.assemble(text(number))
    (path,) = home.iterdir()
    changed = path.read_bytes().replace(number.to_bytes(4, "little"), (number ^ 1).to_bytes(4, "little"))
    assert changed != path.read_bytes()
    path.write_bytes(changed)
    found = ctypes.c_int64()
    machine.compile_function("nothing", text(number), ctypes.c_void_p)(ctypes.addressof(found))
    assert found.value == number and cache.read(path.name) == made


def test_code_of_another_key_is_not_taken(home: Path) -> None:
    cache.write("key", b"code")
    (home / "key").rename(home / "other")
    assert cache.read("other") is None


def test_what_is_no_file_is_not_waited_for(home: Path) -> None:
    cache.write("key", b"code")
    os.mkfifo(home / "pipe", 0o600)
    (home / "folder").mkdir(mode=0o700)
    assert cache.read("pipe") is None and cache.read("folder") is None
    cache.write("pipe", b"code")
    assert cache.read("pipe") == b"code"


def test_folders_above_are_of_this_user_alone(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "new" / "cache"))
    path = cache.folder()
    assert path is not None
    assert [place.stat().st_mode & 0o777 for place in (path, *list(path.parents)[:3])] == [0o700] * 4


def test_another_text_is_another_entry(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.assemble(text(1))
    machine.assemble(text(2))
    monkeypatch.setattr(machine, "target", lambda: ("haswell", ""))
    machine.assemble(text(1))
    assert len(list(home.iterdir())) == 3


def test_code_comes_from_the_disk_the_second_time(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = machine.assemble(text(3))
    monkeypatch.setattr(machine, "_target_machine", lambda: pytest.fail("compiled again"))
    assert machine.assemble(text(3)) == made


def test_a_folder_or_file_that_others_can_write_is_not_trusted(home: Path) -> None:
    cache.write("key", b"code")
    (home / "key").chmod(0o666)
    assert cache.read("key") is None
    (home / "key").chmod(0o600)
    assert cache.read("key") == b"code"
    home.chmod(0o777)
    assert cache.folder() is None and cache.read("key") is None


def test_a_folder_of_another_user_is_not_trusted(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.write("key", b"code")
    mine = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    assert cache.read("key") is None
    cache.write("key", b"other")
    monkeypatch.undo()


def test_links_are_not_followed(home: Path, tmp_path: Path) -> None:
    cache.write("key", b"code")
    (home / "key").rename(tmp_path / "elsewhere")
    (home / "key").symlink_to(tmp_path / "elsewhere")
    assert cache.read("key") is None


def test_no_folder_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for place in (str(tmp_path / "file"), "relative", "/proc/nothing"):
        monkeypatch.setenv("XDG_CACHE_HOME", place)
        assert cache.folder() is None
        cache.write("key", b"code")
        assert cache.read("key") is None
        assert machine.assemble(text(4))


def test_a_full_disk_is_no_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(Path, "replace", full)
    cache.write("key", b"code")
    monkeypatch.undo()
    assert list(home.iterdir()) == []
