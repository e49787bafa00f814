import json
import subprocess
from pathlib import Path

import pytest
import torch

from lossscale.support import provenance
from lossscale.support.provenance import collect, git_state


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
    done = subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "file").write_text("1")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "--quiet", "--message", "one")
    return tmp_path


def test_the_record_describes_this_process() -> None:
    record = collect()
    assert record.packages["torch"] == torch.__version__
    assert record.torch_build.startswith(torch.__version__)
    assert record.cpu_capability == torch.backends.cpu.get_cpu_capability()
    assert record.device == "cpu" and record.device_name == record.processor
    assert record.cores >= 1
    assert json.loads(json.dumps(record.as_dict())) == record.as_dict()


def test_what_a_resume_compares_is_in_the_record() -> None:
    key = collect().resume_key()
    assert set(key) == {"cpu_capability", "device", "device_name", "torch_build"}
    assert key["device_name"] == ""  # another CPU model of the same capability gives the same bits


@pytest.mark.cuda
def test_a_gpu_is_named() -> None:
    record = collect("cuda")
    assert record.device_name == torch.cuda.get_device_name()
    assert record.device_capability.startswith("sm_")
    assert record.resume_key()["device_name"] == record.device_name


def test_the_revision_and_whether_files_differ_from_it(checkout: Path) -> None:
    revision = git(checkout, "rev-parse", "HEAD")
    assert git_state(checkout) == (revision, False)
    (checkout / "untracked").write_text("")
    assert git_state(checkout) == (revision, False)
    (checkout / "file").write_text("2")
    assert git_state(checkout) == (revision, True)


def test_a_repository_around_the_packages_is_not_theirs(checkout: Path) -> None:
    (checkout / "site-packages").mkdir()
    assert git_state(checkout / "site-packages") == ("", None)


def test_without_a_repository_or_a_commit_or_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert git_state(tmp_path) == ("", None)
    git(tmp_path, "init", "--quiet")
    assert git_state(tmp_path) == ("", None)
    monkeypatch.setenv("PATH", "")
    assert git_state(tmp_path) == ("", None)


def test_without_git_or_an_install_there_is_still_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> str:
        raise provenance.metadata.PackageNotFoundError(name)

    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(provenance.metadata, "version", nothing)
    record = collect()
    assert (record.git_revision, record.git_dirty, dict(record.packages)) == ("", None, {})
    assert record.version
