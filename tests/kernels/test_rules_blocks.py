"""The reference's fused multiply-add and root, and the recorded bias corrections, against exact arithmetic."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from test_interpreter import _operands, _round_float32

from kernels import bits
from kernels.rounding import reference
from kernels.rounding.powers import BIAS_CORRECTIONS, PowerTable, _length

needs_fma = pytest.mark.skipif(
    not reference.addcmul_is_fma("cpu", torch.float32), reason="torch's addcmul rounds twice on this CPU"
)


def _wide(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    a, b, c = (torch.from_numpy(x) for x in _operands(count))
    special = torch.tensor([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1e-38, 3.4e38, -3.4e38, 1.0, -1.0])
    corners = torch.cartesian_prod(special, special, special)
    return tuple(torch.cat([x, y]) for x, y in zip((a, b, c), corners.unbind(1), strict=True))  # type: ignore[return-value]


@needs_fma
def test_round_to_odd_equals_the_hardware() -> None:
    a, b, c = _wide(400_000)
    found = bits.report(reference._fma_by_round_to_odd(a, b, c), torch.addcmul(c, a, b))
    assert found is None, found


def test_round_to_odd_equals_rationals() -> None:
    a, b, c = _operands(1500)
    got = reference._fma_by_round_to_odd(*map(torch.from_numpy, (a, b, c)))
    exact = [
        _round_float32(Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)))
        for x, y, z in zip(a, b, c, strict=True)
    ]
    assert bits.mismatches(got.abs(), torch.tensor(exact).abs()) == 0


def test_fma_falls_back_and_refuses_what_has_no_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, c = _wide(2000)
    expected = reference.fma(a, b, c)
    monkeypatch.setattr(reference, "addcmul_is_fma", lambda device, dtype: False)
    assert bits.mismatches(reference.fma(a, b, c), expected) == 0
    broadcast = reference.fma(a[:4, None], b[0], c[:3])
    assert bits.mismatches(broadcast, reference.fma(*torch.broadcast_tensors(a[:4, None], b[0], c[:3]))) == 0
    with pytest.raises(RuntimeError, match="ATEN_CPU_CAPABILITY"):
        reference.fma(a.double(), b.double(), c.double())


def test_exact_root_is_correctly_rounded() -> None:
    generator = np.random.default_rng(1)
    x = np.concatenate([generator.random(2000) * 4, np.exp2(generator.integers(-149, 128, 2000))]).astype(np.float32)
    got = reference.exact_sqrt(torch.from_numpy(x)).numpy()
    for value, root in zip(x.tolist(), got, strict=True):
        below, above = (Fraction(float(np.nextafter(root, np.float32(side)))) for side in (0, np.inf))
        exact, near = Fraction(value), Fraction(float(root))
        # The root lies between the midpoints to its neighbours.
        assert ((below + near) / 2) ** 2 <= exact <= ((near + above) / 2) ** 2


def test_recorded_tables_are_what_the_cpu_reads() -> None:
    table = PowerTable(torch.device("cpu"))
    with np.load(BIAS_CORRECTIONS) as archive:
        recorded = {float(name): archive[name] for name in archive.files}
    assert len(recorded) == 10
    for beta, expected in recorded.items():
        offset, length = (int(x) for x in table.place(beta))
        covered = min(length, expected.size)
        assert np.array_equal(table.values[offset : offset + covered].numpy(), expected[:covered])
        # Where the table ends the correction is 1, and stays 1 in the recording.
        assert float(table.values[offset + length - 1]) == 1.0
        assert bool((expected[length:] == 1.0).all())
        assert table.place(beta) == (offset, length)
    # Only this one goes on beyond the recording.
    assert table.unrecorded == {0.9999}


def test_every_spelling_of_a_beta_has_its_recorded_table() -> None:
    with np.load(BIAS_CORRECTIONS) as archive:
        betas = sorted(map(float, archive.files))
    plain = PowerTable(torch.device("cpu"))
    expected = [plain.place(beta) for beta in betas]
    for spelled in (np.float64, np.float32, lambda beta: torch.tensor(beta).item()):
        table = PowerTable(torch.device("cpu"))
        assert [table.place(spelled(beta)) for beta in betas] == expected
        assert bits.mismatches(table.values, plain.values) == 0
        # And whoever asks later in the process gets the same.
        assert [table.place(beta) for beta in betas] == expected


def test_unrecorded_betas_are_rounded_from_double_and_named() -> None:
    table = PowerTable(torch.device("cpu"))
    offset, length = (int(x) for x in table.place(0.77))
    beta32 = Fraction(float(np.float32(0.77)))
    for step in (1, 2, 10, length):
        power = np.float32(float(beta32**step))
        assert float(table.values[offset + step - 1]) == float(np.float32(1) - power)
    assert table.unrecorded == {0.77}
    for exact in (0.0, 1.0 - 2.0**-26):
        assert _length(float(np.float32(exact))) in (1, 2**24)
    table.place(0.0)
    assert table.unrecorded == {0.77}


def test_a_float32_quotient_is_the_narrowed_double_reciprocal() -> None:
    """What unscaling kernels rely on; once tried on all 2^32 scales."""
    significands = np.arange(2**23, dtype=np.uint32)
    every = (significands | np.uint32(exponent << 23) for exponent in (0, 1, 127, 253))
    some = (significands[::4099] | np.uint32(exponent << 23) for exponent in range(256))
    for patterns in (*every, *some):
        for scale in (patterns.view(np.float32), (patterns | np.uint32(1 << 31)).view(np.float32)):
            numbers = scale[~np.isnan(scale)]
            with np.errstate(all="ignore"):
                double = (1.0 / numbers.astype(np.float64)).astype(np.float32)
                single = np.float32(1.0) / numbers
            assert np.array_equal(single.view(np.uint32), double.view(np.uint32))
