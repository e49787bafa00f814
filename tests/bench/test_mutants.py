import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.__main__ import main
from bench.conformance.mutants import MUTANTS, UNKILLABLE, Edit, Mutant
from bench.conformance.mutants import run as mutants_run
from bench.conformance.mutants.mutant import SOUND, edited, load
from bench.conformance.mutants.place import find, sources
from bench.conformance.mutants.tolerance import STYLES, accepted
from bench.conformance.mutants.trial import run_trial, trial_cases

BY_NAME = {mutant.name: mutant for mutant in MUTANTS}
NO_OP = replace(
    BY_NAME["sign"],
    name="equivalent",
    edits=(Edit(inside="step_kernel.BLOCK", old="1024", new="512"),),
)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_edit_finds_its_text(mutant: Mutant) -> None:
    for name, text in edited(mutant).items():
        assert text != (SOUND / name).read_text()
        compile(text, name, "exec")
    assert mutant.place.startswith("kernels/")


def test_there_are_enough_mutants_of_every_kind() -> None:
    kinds = Counter(mutant.kind for mutant in MUTANTS)
    assert len(MUTANTS) >= 40 and kinds["launch"] >= 10 and kinds["state"] >= 5
    assert len(BY_NAME) == len(MUTANTS)
    assert {mutant.optimizer for mutant in MUTANTS} == {"SGD", "Adam", "AdamW", "RMSprop", "Adagrad"}
    assert all(reason for reason in UNKILLABLE.values())


def test_a_stale_edit_says_so() -> None:
    with pytest.raises(ValueError, match=r"kernels/\S*tables.py, chunk_table: found 0 times"):
        Edit(inside="chunk_table", old="no such text", new="").apply(sources(SOUND))
    with pytest.raises(ValueError, match="no_such_function: nothing has that name"):
        Edit(inside="no_such_function", old="x", new="").apply(sources(SOUND))


def test_a_name_means_one_place_wherever_its_file_is() -> None:
    files = {
        "a/one.py": "def f():\n    return 1\n\n\nclass C:\n    def g(self):\n        return 2\n",
        "b/two.py": "def f():\n    return 3\n\n\nLIMIT: int = 4\n",
        "b/__init__.py": "def start():\n    return 5\n",
    }

    def text_of(name: str) -> str:
        place = find(files, name)
        return files[place.file][place.start : place.end]

    assert text_of("one.f") == text_of("a.one.f") == "def f():\n    return 1\n"
    assert text_of("two.f") == "def f():\n    return 3\n"
    assert text_of("C.g") == text_of("one.C.g") == "    def g(self):\n        return 2\n"
    assert (text_of("LIMIT"), text_of("b.start")) == ("LIMIT: int = 4\n", files["b/__init__.py"])
    with pytest.raises(ValueError, match=r"f: in a/one.py, b/two.py: name its module too"):
        find(files, "f")
    for name in ("c.one.f", "g", "b.f", "a.one"):
        with pytest.raises(ValueError, match="nothing has that name"):
            find(files, name)


def test_a_mutant_is_a_package_of_its_own() -> None:
    import kernels

    module = load(BY_NAME["correction-missing"])
    assert module is not kernels and module.__name__ != "kernels"
    parameter = torch.ones(4, requires_grad=True)
    stepped = []
    for package in (kernels, module):
        p = parameter.detach().clone().requires_grad_()
        p.grad = torch.full((4,), 0.5)
        package.Adam([p], lr=0.1, backend="reference").step()
        stepped.append(p.detach())
    assert not torch.equal(*stepped)
    # torch's operators are one table for the whole process: the copy's own stands beside the original's.
    namespace = module.__name__.partition(".")[0]
    assert namespace != "kernels" and hasattr(getattr(torch.ops, namespace), "optimizer_step")


def test_tolerance_styles() -> None:
    sound = [torch.linspace(1, 2, 10_000)]
    off = [sound[0].clone()]
    assert accepted(off, sound) == set(STYLES)
    off[0][:15] += 0.1
    assert accepted(off, sound) == {"norm 1%", "15 outliers", "1% outliers", "cosine .999"}
    off[0][15:101] += 0.1
    assert accepted(off, sound) == {"norm 1%", "cosine .999"}
    assert accepted([-sound[0]], sound) == {"norm 1%"}
    assert accepted([torch.empty(0)], [torch.empty(0)]) == set(STYLES)
    broken = torch.tensor([torch.inf, torch.nan, 1.0])
    assert accepted([broken], [broken.clone()]) == set(STYLES)
    assert accepted([broken], [torch.tensor([torch.inf, torch.nan, 2.0])]) != set(STYLES)


def test_trial_cases_meet_what_launches_get_wrong() -> None:
    for optimizer, recipe in (("Adam", "fused"), ("SGD", "foreach")):
        cases = trial_cases(optimizer, recipe)
        assert any(case.layout == "long" for case in cases)
        assert any(case.keep_gradients for case in cases) and any(case.idle for case in cases)
        assert {case.dtype for case in cases} == {"fp32", "bf16", "fp16"}
        assert any(case.grad_scale and case.found_inf_at is None for case in cases)


@pytest.mark.interpreter
@pytest.mark.parametrize(
    "name",
    ["sign", "tail-skipped", "minus-zero-lost", "lr-captured", "loaded-counts-as-used", "closure-without-gradients"],
)
def test_a_mutant_is_killed(name: str) -> None:
    trial = run_trial(BY_NAME[name], thorough=False)
    assert trial.killed_by and trial.evidence and "ModuleNotFound" not in trial.evidence


@pytest.mark.interpreter
def test_an_equivalent_mutant_survives_and_every_style_accepts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.conformance.mutants import trial as module

    monkeypatch.setattr(module, "trial_cases", lambda *arguments: trial_cases(*arguments)[:4])
    found = run_trial(NO_OP)
    assert (found.killed_by, found.killing, found.cases) == ("", 0, 4)
    assert set(found.let_through) == set(STYLES)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="once is enough")
def test_command_reports_survivors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(mutants_run, "MUTANTS", (BY_NAME["tail-skipped"], NO_OP))
    out, junit = tmp_path / "mutants.html", tmp_path / "mutants.xml"
    code = main(["conform", "--mutants", "--quick", "--json", "--out", str(out), "--junit", str(junit)])
    document = json.loads(capsys.readouterr().out)
    assert code == 1
    assert [row["outcome"] for row in document["rows"]] == ["killed", "survived"]
    assert (document["mutants"], document["killed"]) == (2, 1)
    assert "tail-skipped" in out.read_text() and 'failures="1"' in junit.read_text()


def test_mutants_take_no_provider(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conform", "--mutants", "--provider", "torch-foreach"]) == 2
    assert "--mutants" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="starts its own interpreter processes")
def test_every_mutant_is_killed() -> None:
    trials = list(mutants_run.run_all(MUTANTS, thorough=False))
    assert [trial.name for trial in trials if not trial.killed_by] == []
