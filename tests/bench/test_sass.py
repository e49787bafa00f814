"""Machine instructions are counted by what executes them."""

import json

import pytest

from bench.__main__ import main
from bench.machine_code import cli as static_cli
from bench.machine_code.sass import counts, resident_warps
from bench.machine_code.variants import Dtypes, Variant

CODE = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;                /* 0x00000a00ff017b82 */
                                                                        /* 0x000fe20000000800 */
.L_x_1:
        /*0010*/              @!P0 LDG.E.128 R4, [R2.64] ;
        /*0020*/                   F2F.F64.F32 R8, R4 ;
        /*0030*/              @P1  MUFU.RCP64H R9, R8 ;
        /*0040*/                   DFMA R10, R8, R8, R8 ;
        /*0050*/                   DADD R10, R8, R8 ;
        /*0060*/                   F2F.BF16.F32 R5, R4 ;
        /*0070*/                   STG.E desc[UR4][R2.64], R4 ;
        /*0080*/             @UP0  STG.E.128 desc[UR4][R2.64], R4 ;
        /*0090*/                   DMUL R10, R8, R8 ;
        /*00a0*/                   EXIT ;
"""


def test_counting_between_the_first_load_and_the_last_store() -> None:
    assert counts(CODE) == {"instructions": 8, "double": 2, "wide_conversions": 1, "special": 1}
    assert counts("/*0000*/ EXIT ;")["instructions"] == 0


@pytest.mark.parametrize(("registers", "warps", "resident"), [(80, 4, 24), (118, 4, 16), (133, 4, 12), (32, 8, 64)])
def test_warps_that_registers_hold(registers: int, warps: int, resident: int) -> None:
    assert resident_warps(registers, warps) == resident


def test_only_fused_adagrad_computes_in_double(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bf16 = Dtypes(param="bf16", state="bf16")
    chosen = [
        Variant(
            algorithm="adagrad",
            recipe=recipe,
            flags=0,
            states=1,
            dtypes=bf16,
            scaled=scaled,
            found_inf=False,
            arch="sm_90",
        )
        for recipe, scaled in (("foreach", False), ("fused", False), ("fused", True))
    ]
    monkeypatch.setattr(static_cli, "variants", lambda *arguments: chosen)
    assert main(["static", "--instructions", "--json"]) == 0
    default, fused = json.loads(capsys.readouterr().out)["rows"]
    assert default["double"] == 0 and fused["double"] > 8 and fused["warps"] < default["warps"]
    assert default["bytes"] == fused["bytes"] == 10
