"""The lock of a run's directory: who may hold it, and when it goes again."""

import fcntl
from contextlib import ExitStack
from pathlib import Path

import pytest

from lossscale.runs.lock import LOCK, locked
from lossscale.support.errors import InputError


def test_a_lock_that_was_made_for_nothing_goes_again(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    assert not (tmp_path / LOCK).exists()
    with locked(tmp_path, shared=True):
        with pytest.raises(InputError, match="another process is writing"), locked(tmp_path):
            pass
        with pytest.raises(KeyError), locked(tmp_path, shared=True):
            raise KeyError
        assert (tmp_path / LOCK).exists()
    with pytest.raises(KeyError), locked(tmp_path, shared=True):
        raise KeyError
    assert (tmp_path / LOCK).exists(), "it was there"


def test_a_lock_that_others_hold_stays(tmp_path: Path) -> None:
    with ExitStack() as others:
        with pytest.raises(KeyError), locked(tmp_path, shared=True):
            others.enter_context(locked(tmp_path, shared=True))
            raise KeyError
        assert (tmp_path / LOCK).exists()


def test_a_lock_that_was_taken_away_meanwhile_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that made it is refused between another's opening it and locking it; its new directory goes too."""
    plain, run = fcntl.flock, tmp_path / "run"

    def late(descriptor: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", plain)
        (run / LOCK).unlink()
        run.rmdir()
        fcntl.flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with locked(run):
        with pytest.raises(InputError, match="another process is writing"), locked(run):
            pass
        assert (run / LOCK).exists()
