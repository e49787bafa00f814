"""Histograms of gradients and roots of second moments, layer by layer, and what of them lies outside the formats."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from kernels import get_algorithm

from ...analysis.judging import Lines
from ...analysis.measured import Measured
from ...design.grid import NetworkInits
from ...design.policies import get_policy
from ...design.spec import RunSpec
from ...design.study import Study
from ...diagnose.steps import root
from ...engines.engine import base_hyperparameters, choose_engine
from ...models.modules import get_module
from ...runs.records import read_manifest
from ...support.files import write_json
from . import DIGITS, SPAN, TRANSFORMER

SPECTRA: Final = "spectra.json"
"""What the page draws."""

INITS: Final[Mapping[str, int]] = {TRANSFORMER: 8, DIGITS: 64}
"""How many initialisations are looked at, of the base arm."""

TRAINED: Final = 100
"""Steps from which on a network counts as one that has learned something."""

LOWEST, HIGHEST = -160, 32
"""Binades of the histograms; what lies outside is counted in the last one."""

FP16_NORMAL: Final = 2.0**-14
FP16_ZERO: Final = 2.0**-25
FP16_SQUARE: Final = math.sqrt(2.0**-25 / 1e-3)
"""|g| up to which (1 − .999) g² is 0 in float16: 5.46e-3."""
FP16_LARGEST: Final = 65504.0


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """One layer at one checkpoint: how many numbers lie in each binade, from `LOWEST`, over all initialisations."""

    network: str
    policy: str
    step: int
    layer: str
    gradients: tuple[int, ...]
    zero_gradients: int
    roots: tuple[int, ...]
    zero_roots: int


def further(study: Study, run: Path) -> pd.DataFrame:
    """Train the base arm again in every policy of the run, write spectra.json, and return the lines."""
    spec = read_manifest(run).run_spec
    assert spec is not None, "the study has a grid"
    lines, spectra = Lines(study), list[Spectrum]()
    for policy in spec.policies:
        for network in spec.networks:
            spectra += _look(lines, spec, network, policy)
    if "fp32" not in spec.policies:
        lines.add("span_in_binades", math.nan, SPAN, reason="the run has no fp32, whose gradients are the true ones")
    write_json(run / SPECTRA, [dataclasses.asdict(spectrum) for spectrum in spectra])
    return lines.frame()


def _look(lines: Lines, spec: RunSpec, network: NetworkInits, policy: str) -> Iterator[Spectrum]:
    """Trains one network in one policy, adds its lines and yields the layers at every checkpoint."""
    inits = min(INITS[network.network], network.inits)
    alone = dataclasses.replace(
        spec,
        arms=("base",),
        scales=(1.0,),
        against=(),
        policies=(policy,),
        optimizers=spec.optimizers[:1],
        networks=(dataclasses.replace(network, inits=inits, cohort_inits=inits),),
    ).of_network(network.network)
    engine, optimizer = choose_engine(alone, policy, network.network), spec.optimizers[0]
    hyper, algorithm = base_hyperparameters(optimizer, spec.lr), get_algorithm(optimizer.algorithm)
    layers = layers_of(network.network)
    (cohort,) = alone.cohorts()
    for now in engine.advance(alone, cohort, get_policy(policy), [hyper]):
        r = root(algorithm, now.state, hyper, now.step)
        assert r is not None, "the study's optimizer divides by a root"
        magnitudes = now.grads.double().abs()
        cell = {
            **{"network": network.network, "optimizer": optimizer.algorithm, "options": optimizer.text},
            **{"recipe": cohort.key.recipe, "policy": policy, "arm": "base", "step": now.step},
        }
        _add_lines(lines, magnitudes, r, hyper.eps, cell)
        for name, columns in layers.items():
            (gradients, zero_gradients), (roots, zero_roots) = (
                binades(values[:, columns]) for values in (magnitudes, r)
            )
            yield Spectrum(
                network=network.network,
                policy=policy,
                step=now.step,
                layer=name,
                gradients=gradients,
                zero_gradients=zero_gradients,
                roots=roots,
                zero_roots=zero_roots,
            )


def layers_of(network: str) -> dict[str, slice]:
    """Every trained parameter's columns in a model's n numbers, by name."""
    places, start = {}, 0
    for name, parameter in get_module(network).built(0, 0).named_parameters():
        if parameter.requires_grad:
            places[name] = slice(start, start + parameter.numel())
            start += parameter.numel()
    return places


def binades(values: Tensor) -> tuple[tuple[int, ...], int]:
    """How many of the finite values other than 0 lie in [2^k, 2^(k + 1)), for k from `LOWEST`; and how many are 0."""
    known = values[values.isfinite() & (values > 0)]
    exponents = (torch.frexp(known).exponent - 1).clamp(LOWEST, HIGHEST) - LOWEST
    counts = torch.bincount(exponents.long().flatten(), minlength=HIGHEST - LOWEST + 1)
    return tuple(int(count) for count in counts), int((values == 0).sum())


def _add_lines(lines: Lines, magnitudes: Tensor, r: Tensor, eps: float, cell: Mapping[str, Any]) -> None:
    """Medians over initialisations of shares of each network's own elements."""
    gradients, roots = magnitudes.cpu().numpy(), r.cpu().numpy()
    for name, limit in (
        ("share_g_below_fp16_normal", FP16_NORMAL),
        ("share_g_zero_in_fp16", FP16_ZERO),
        ("share_g2_zero_in_fp16_state", FP16_SQUARE),
    ):
        lines.add(name, Measured.median(_shares(gradients, lambda g, limit=limit: g <= limit)), **cell)
    lines.add("zero_gradient_share", Measured.median((gradients == 0).mean(axis=1)), **cell)
    for name, border in (("fp32", 2.0**-25), ("fp16", 2.0**-12), ("bf16", 2.0**-9)):
        visible = _shares(roots, lambda values, border=border: eps / values > border)
        lines.add(f"share_eps_visible_in_{name}", Measured.median(visible), **cell)
    spans = [_span(row) for row in gradients]
    judged = cell["policy"] == "fp32" and cell["step"] > 1
    early = "" if cell["step"] >= TRAINED else f"a network of {cell['step']} steps is not trained"
    lines.add(
        "span_in_binades", Measured.median(spans), SPAN if judged else None, reason=early if judged else "", **cell
    )
    low, high = zip(*(usable_scales(row) for row in gradients), strict=True)
    lines.add("lowest_s_for_fp16", Measured.median(low), **cell)
    lines.add("highest_s_for_fp16", Measured.median(high), **cell)


def _shares(values: npt.NDArray[np.float64], chosen: Any) -> list[float]:
    """Of each row's numbers other than 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return [float(chosen(row[row > 0]).mean()) if (row > 0).any() else math.nan for row in values]


def _span(row: npt.NDArray[np.float64]) -> float:
    """Binades between the .5 % and the 99.5 % quantile of the numbers other than 0."""
    known = row[(row > 0) & np.isfinite(row)]
    if not len(known):
        return math.nan
    low, high = np.quantile(np.log2(known), (0.005, 0.995))
    return float(high - low)


def usable_scales(row: npt.NDArray[np.float64], share: float = 0.01) -> tuple[float, float]:
    """Powers of two between which float16 gradients keep all but a share of their elements normal and none overflows.

    Args:
        row: magnitudes of one model's gradients.
        share: of the elements other than 0 that may be subnormal or 0.

    Returns:
        lowest, highest; the lowest is above the highest where no s does both.
    """
    known = row[(row > 0) & np.isfinite(row)]
    if not len(known):
        return math.nan, math.nan
    low = 2.0 ** math.ceil(math.log2(FP16_NORMAL / float(np.quantile(known, share))))
    high = 2.0 ** math.floor(math.log2(FP16_LARGEST / float(known.max())))
    return low, high


def quantile_of(counts: Sequence[int], level: float) -> float:
    """The binade in which a quantile lies; NaN without counts."""
    total = sum(counts)
    if not total:
        return math.nan
    return float(np.searchsorted(np.cumsum(counts), level * total)) + LOWEST
