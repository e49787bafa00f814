import errno
import json
import os
import stat
from pathlib import Path

import pytest

from lossscale.support.errors import InputError
from lossscale.support.files import (
    check_file,
    made_directory,
    make_directory,
    remove_leftovers,
    whole_file,
    write_bytes,
    write_json,
    write_text,
)


def test_a_place_is_tried_before_any_work_and_nothing_is_left(tmp_path: Path) -> None:
    check_file("--out", None, ".json")
    check_file("--out", tmp_path / "a/b/new.json", ".json")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old.json").write_text("old")
    check_file("--out", tmp_path / "old.json", ".json")
    assert names(tmp_path) == ["old.json"] and (tmp_path / "old.json").read_text() == "old"
    (tmp_path / "folder.json").mkdir()
    for place in ("old.json/new.json", "folder.json", "page.html", "x" * 300 + ".json"):
        with pytest.raises(InputError, match="--junit"):
            check_file("--junit", tmp_path / place, ".json")
    assert names(tmp_path) == ["folder.json", "old.json"]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_directories_are_created_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_text(tmp_path / "a/b/page.html", "Größe\r\n")
    assert (tmp_path / "a/b/page.html").read_bytes() == "Größe\r\n".encode()
    assert names(tmp_path / "a/b") == ["page.html"]


def test_half_of_a_pair_of_code_units_becomes_a_question_mark(tmp_path: Path) -> None:
    write_text(tmp_path / "page.html", "a\ud800b")
    assert (tmp_path / "page.html").read_bytes() == b"a?b"


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "summary.csv"
    write_bytes(target, b"old")
    with pytest.raises(KeyError), whole_file(target) as temporary:
        temporary.write_bytes(b"half of the n")
        raise KeyError("a bug in the writer")
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["summary.csv"]


def test_a_failed_write_takes_its_directories_away_again(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    for directory in (tmp_path / "old" / "new", tmp_path / "new" / "deep"):
        with pytest.raises(KeyError), whole_file(directory / "x"):
            raise KeyError("a bug in the writer")
        with pytest.raises(KeyError), made_directory(directory):
            raise KeyError("refused")
        with pytest.raises(InputError):
            write_text(directory / ("x" * 300) / "y", "a name that no file system takes")
    assert [path.name for path in tmp_path.rglob("*")] == ["old"]
    with pytest.raises(KeyError), made_directory(tmp_path / "new" / "deep"):
        (tmp_path / "new" / "another's").touch()
        raise KeyError("refused")
    assert names(tmp_path / "new") == ["another's"]


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "summary.csv"
    write_bytes(target, b"old")
    with whole_file(target) as temporary:
        temporary.write_bytes(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"


def test_the_mode_follows_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0o022)
    try:
        write_bytes(tmp_path / "x", b"")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o644


def test_a_place_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")  # below a regular file nobody can write, not even root
    below = tmp_path / "file" / "out"
    with pytest.raises(InputError, match=r"^--out .*/file/out/x\.json: cannot be written \(Not a directory\)"):
        write_json(below / "x.json", {})
    with pytest.raises(InputError, match=r"^--report .*/file/out: cannot be written \(Not a directory\)"):
        make_directory(below, argument="--report")
    with pytest.raises(InputError, match=r"cannot be written \(Is a directory\)"):
        write_bytes(tmp_path, b"")
    assert names(tmp_path) == ["file"]


def test_a_full_disk_is_said_and_another_oserror_is_the_writers_own(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No space left"), whole_file(tmp_path / "x"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "x"):
        (tmp_path / "missing").read_bytes()
    assert names(tmp_path) == []


def test_make_directory_leaves_it_empty_and_takes_an_existing_one(tmp_path: Path) -> None:
    assert make_directory(make_directory(tmp_path / "run")) == tmp_path / "run"
    assert names(tmp_path / "run") == []


def test_leftovers_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    writer = whole_file(tmp_path / "pairs" / "0.parquet")
    writer.__enter__().write_bytes(b"half")  # and never left: what kill -9 does
    (tmp_path / ".notes.tmp").write_text("not ours")
    assert remove_leftovers(tmp_path) == 1
    assert names(tmp_path / "pairs") == []
    assert (tmp_path / ".notes.tmp").exists()


def test_json_ends_with_a_line_end(tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", {"seed": 20})
    text = (tmp_path / "manifest.json").read_text()
    assert text.endswith("}\n")
    assert json.loads(text) == {"seed": 20}
