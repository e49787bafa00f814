import importlib.util
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import triton
import triton.language as tl

import kernels
from bench.__main__ import main
from bench.machine_code import cli as static_cli
from bench.machine_code import limits as static
from bench.machine_code import operations, ptx, reading
from bench.machine_code import variants as reachable
from bench.machine_code.compile import Job
from bench.machine_code.trainer import trained
from bench.pairwise import cover, pairs_of

if os.environ.get("TRITON_INTERPRET") == "1":
    # Triton decides when a kernel is decorated: a process that interprets cannot compile. `make test` runs both.
    pytest.skip("kernels are compiled here", allow_module_level=True)

EVERYTHING = reachable.variants()
SHOWN = reachable.Variant(
    algorithm="adam",
    recipe="foreach",
    flags=0,
    states=3,
    dtypes=reachable.UNIFORM[0],
    scaled=False,
    found_inf=False,
    arch="sm_90",
)


@pytest.mark.parametrize("part", range(6))
def test_static_limits_of_a_covering_set(part: int) -> None:
    chosen = reachable.covering(EVERYTHING)[part::6]
    rows = [static.examine(variant) for variant in chosen]
    assert [row for row in rows if row["verdict"] != "holds"] == []


def test_static_float32_adam_moves_28_bytes_per_element() -> None:
    row = static.examine(SHOWN)
    assert (row["verdict"], row["bytes"], row["accesses"]) == ("holds", 28, "8 + 6")


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_static_unscaling_with_every_state_and_decay_spills_nothing(arch: str) -> None:
    # The tightest kernel: Triton 3.6.0 spilled here when the reciprocal of the scale was taken in double.
    flags = kernels.flags.DECAY.value | kernels.flags.AMSGRAD.value | kernels.flags.SCALED.value
    tight = replace(SHOWN, flags=flags, states=7, dtypes=reachable.UNIFORM[1], scaled=True, arch=arch)
    assert tight in EVERYTHING
    assert static.examine(tight)["verdict"] == "holds"


def test_static_variants_reach_every_recipe_option_and_dtype() -> None:
    assert len(EVERYTHING) > 2000
    rules = {(v.algorithm, v.recipe) for v in EVERYTHING}
    # AdamW shares Adam's rules, and a for-loop recipe may share foreach's: their kernels are compiled once.
    assert {name for name, _ in rules} == {*kernels.ALGORITHMS} - {"adamw"}
    assert {str(v.dtypes) for v in EVERYTHING} == {str(d) for d in (*reachable.UNIFORM, *reachable.MIXED)}
    adam = {v.flags & 127 for v in EVERYTHING if (v.algorithm, v.recipe) == ("adam", "fused")}
    assert len(adam) == 12
    quick = reachable.covering(EVERYTHING)
    assert {v.recipe for v in quick} == {recipe for _, recipe in rules}
    assert {v.arch for v in quick} == {*reachable.ARCHITECTURES}


def test_static_pages_count_the_kernels() -> None:
    carried = sum(variant.rows > 0 for variant in EVERYTHING)
    numerics, populations = (
        (Path(__file__).parents[2] / "docs" / name).read_text(encoding="utf-8")
        for name in ("numerics.md", "populations.md")
    )
    assert f"which compiles {len(EVERYTHING):,} kernels for sm_80, sm_90 and sm_100" in numerics
    assert f"all {len(EVERYTHING) - carried:,} that read host scalars from a table or have none" in numerics
    assert f"of the {carried:,} that are given them as arguments" in numerics
    whole, one = (len(list(trained(list(names)))) for names in (reachable.ARCHITECTURES, ("sm_90",)))
    assert f"{whole} in all ({one} an architecture" in populations


def test_static_every_recipe_has_its_list_of_operations() -> None:
    listed = {("adam" if name == "adamw" else name, r) for name, a in kernels.ALGORITHMS.items() for r in a.recipes}
    assert listed == {*operations.RECIPES}


def _mutated_kernel(tmp_path: Path, old: str, new: str) -> Any:
    """`kernels.step_kernel` with a piece of its text replaced, under another name."""
    source = Path(kernels.step_kernel.__file__).read_text()
    assert source.count(old) == 1
    path = tmp_path / "kernel_mutant.py"
    path.write_text(source.replace(old, new))
    spec = importlib.util.spec_from_file_location("kernels.launch.kernel_mutant", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_static_a_masked_main_body_breaks_the_limit(tmp_path: Path) -> None:
    mutant = _mutated_kernel(tmp_path, "                None,\n", "                start + offset < numel,\n")
    row = static.examine(SHOWN, mutant.step_kernel)
    assert "0 + 0 16-byte accesses, not 8 + 6" in row["verdict"]
    assert "no main body" in row["verdict"]


def test_static_a_lost_pointer_alignment_breaks_the_limit(tmp_path: Path) -> None:
    mutant = _mutated_kernel(tmp_path, "tl.multiple_of(s1_ptr, 16)", "s1_ptr")
    assert "not 8 + 6" in static.examine(SHOWN, mutant.step_kernel)["verdict"]


@triton.jit
def _plain_division(
    p,
    g,
    m,
    v,
    s2,
    row,
    step,
    powers,
    lane,
    FLAGS: tl.constexpr,
    DTYPE: tl.constexpr,
    GRAD: tl.constexpr,
    STATE: tl.constexpr,
):
    return p - g / (tl.sqrt(v) + 1.0), m, v, s2


@triton.jit
def _one_contraction_more(
    p,
    g,
    m,
    v,
    s2,
    row,
    step,
    powers,
    lane,
    FLAGS: tl.constexpr,
    DTYPE: tl.constexpr,
    GRAD: tl.constexpr,
    STATE: tl.constexpr,
):
    return tl.fma(g, -0.5, p), m, tl.fma(g, g, v), s2


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        (_plain_division, "not rounded to nearest: div.full.f32, sqrt.approx.ftz.f32"),
        (_one_contraction_more, "2 fma per element, not 5"),
    ],
)
def test_static_a_wrong_rule_breaks_the_limit(rule: Any, complaint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    adam = kernels.get_algorithm("adam")
    wrong = replace(adam, recipes={**adam.recipes, "foreach": replace(adam.recipe("foreach"), rule=rule)})
    monkeypatch.setitem(kernels.ALGORITHMS, "adam", wrong)
    assert complaint in static.examine(SHOWN)["verdict"]


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Job]:
    """What is compiled from here on, into an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    jobs: list[Job] = []
    original = Job.run

    def counted(job: Job) -> Any:
        jobs.append(job)
        return original(job)

    monkeypatch.setattr(Job, "run", counted)
    return jobs


def test_static_what_was_read_is_kept_and_damage_is_mended(compiled: list[Job]) -> None:
    first = static.examine(SHOWN)
    assert static.examine(SHOWN) == first and len(compiled) == 1
    (file,) = reading.cache_folder().iterdir()
    for damage in ("", "[]", '{"body": null}', file.read_text()[:-9]):
        file.write_text(damage)
        assert static.examine(SHOWN) == first
    assert len(compiled) == 5
    # Another target, other options, another rule: another kernel.
    for other in (replace(SHOWN, arch="sm_80"), replace(SHOWN, flags=1), replace(SHOWN, recipe="for-loop")):
        static.examine(other)
    assert len(compiled) == 8 == len({job.key() for job in compiled}) + 4


def test_static_a_cache_that_cannot_be_written_is_no_error(
    compiled: list[Job], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A file where the folder should be: nobody can write there, the superuser neither.
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "taken"))
    assert static.examine(SHOWN)["verdict"] == static.examine(SHOWN)["verdict"] == "holds"
    assert len(compiled) == 2
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/path")
    assert reading.cache_folder() == Path.home() / ".cache" / "lossscale-bench" / "static"


def test_static_quick_set_is_small_and_reaches_every_recipe_dtype_and_target() -> None:
    quick = reachable.covering(EVERYTHING, reachable.QUICK_LIMIT)
    assert len(quick) <= 20
    assert {v.recipe for v in quick} == {v.recipe for v in EVERYTHING}
    assert {v.algorithm for v in quick} == {v.algorithm for v in EVERYTHING}
    assert {v.arch for v in quick} == {*reachable.ARCHITECTURES}
    assert {str(v.dtypes) for v in quick} == {str(v.dtypes) for v in EVERYTHING}


def test_static_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setattr(static_cli, "variants", lambda *arguments: [SHOWN, replace(SHOWN, flags=1)])
    out = tmp_path / "static.json"
    assert main(["static", "--arch", "sm_90", "--json", "--out", str(out)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["kernels"] == len(document["rows"]) == 2 and document["broken"] == 0
    assert json.loads(out.read_text())["rows"] == document["rows"]
    monkeypatch.setattr(static, "_accesses", lambda *arguments: (1, 1, 28))
    assert main(["static"]) == 1
    assert "8 + 6 16-byte accesses, not 1 + 1" in capsys.readouterr().out


def test_static_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["static", "--arch", "sm_70"]) == 2
    assert main(["static", "--optimizer", "ADAMM"]) == 2
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert main(["static"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert (
        len(lines) == 3 and "sm_70" in lines[0] and "did you mean Adam?" in lines[1] and "TRITON_INTERPRET" in lines[2]
    )


PTX = """
.visible .entry k() {
$L__BB0_1:
	ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 + 0 ];
	ld.global.b64 { %rd10 }, [ %rd11 + 0 ];
	sub.rn.f32 	%r5, %r1, %r2;
	fma.rn.f32x2 	%rd5, %rd1, %rd2, %rd3;
	fma.rn.f32.bf16 	%r5, %rs1, %rs2, %r3;
	mov.b16 	%rs3, 0x3F80;
	fma.rn.bf16 	%rs6, %rs4, %rs3, %rs5;
	cvt.rn.bf16x2.f32 	%r6, %r1, %r2;
	st.global.v4.b32 [ %rd1 + 0 ], { %r1, %r2, %r3, %r4 };
	bra.uni 	$L__BB0_3;
$L__BB0_2:
	mul.f32 	%r5, %r1, %r2;
	@%p4 st.global.b32 [ %rd34 + 0 ], { %r11 };
	ret;
"""


def test_static_reading_ptx() -> None:
    body = ptx.main_body(PTX)
    assert body is not None
    assert dict(body.operations) == {"add": 2, "fma": 3, "round": 3}
    assert (body.improper, body.vector_bytes, body.narrow_loads, body.narrow_stores) == ((), (16, 16), 1, 0)
    assert ptx.improper_in(PTX) == ("mul.f32",)


def test_pairwise_selection_meets_every_pair_that_can_meet() -> None:
    everything = [(a, b, c) for a in range(3) for b in range(3) for c in range(3) if (a, b) != (0, 0)]
    chosen = cover([(item, item) for item in everything])
    assert set().union(*map(pairs_of, chosen)) == set().union(*map(pairs_of, everything))
    assert len(chosen) < 13
    assert cover([(item, item) for item in everything], 2) == chosen[:2]
    assert cover([]) == []
