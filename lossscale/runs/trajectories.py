"""One pair from its ID: what happened to it, checkpoint by checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ..design.measures import MEASURES
from ..design.options import algorithm_name
from ..design.spec import CellKey, RunSpec
from ..support.errors import InputError
from . import records

FORM: Final = "NETWORK/OPTIMIZER[:OPTIONS]/POLICY/ARM:AGAINST/SCALE/INIT"


LEGEND: Final[Mapping[str, str]] = {
    "identical": "whether all parameter bits of the two agree",
    "differing_bits": "how many parameter bits differ",
    "max_ulp": "the largest difference of a parameter, in units in the last place",
    "rel_distance": "|arm − against| / |against| over all parameters",
    "update_norm_ratio": "length of the arm's last step over that of the other's",
    "predicted_update_norm_ratio": "the same by the optimizer's closed form",
    "eps_over_r_q50": "eps over the root it is added to, the median over parameters",
    "v_zero_share": "share of the parameters whose second moment is 0",
    "skipped": "steps that the arm's own loss scale has skipped",
    "loss_arm": "the arm's loss, not multiplied by s",
    "loss_against": "the other's",
    "smallest_grad": "the arm's smallest gradient that is not 0",
    "nonfinite": "how many of the arm's parameters are infinite or NaN",
    "state_identical": "whether the optimizers' states agree in every bit, brought to one loss scale",
    "distance_over_moved": "|arm − against| / |against − its initialisation|",
    "size_ratio": "|arm| / |against| over all parameters",
}
"""What the columns of a trajectory say."""


def legend(columns: Sequence[str]) -> str:
    """A line about the columns that a terminal shows."""
    return "; ".join(f"{name}: {LEGEND[name]}" for name in columns if name in LEGEND) + "."


def pairs_of(run: Path) -> list[dict[str, Any]]:
    """The pairs of a run, a row for those that differ in scale and initialisation alone.

    Returns:
        Rows of ``pairs`` (an ID without its last two parts), ``scales`` (as IDs have them) and ``inits`` (their number:
        the initialisations are 0 to one less).

    Raises:
        InputError: if the run's study has no pairs.
    """
    spec = _spec_of(run)
    scales: dict[str, list[str]] = {}
    for pairing in spec.pairings:
        arm, against = spec.family[pairing.arm], spec.family[pairing.against]
        scales.setdefault(f"{arm.name}:{against.name}", []).append(repr(arm.scale).removesuffix(".0"))
    inits = {network.network: network.inits for network in spec.networks}
    cells = dict.fromkeys(cohort.key for cohort in spec.cohorts())
    return [
        {
            "pairs": f"{key.network}/{key.optimizer}{f':{key.options}' * bool(key.options)}/{key.policy}/{arms}",
            "scales": found,
            "inits": inits[key.network],
        }
        for key in cells
        for arms, found in scales.items()
    ]


def _spec_of(run: Path) -> RunSpec:
    spec = records.read_manifest(run).run_spec
    if spec is None:
        raise InputError("RUN", run, "this study is a script and has no pairs; see its summary.csv")
    return spec


def shown_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a terminal shows of a trajectory: the step, and the measures that are for it."""
    there = {name for row in rows for name in row}
    return ["step", *(name for name, measure in MEASURES.items() if measure.shown and name in there)]


def trajectory(run: Path, pair: str) -> list[dict[str, Any]]:
    """The rows of one pair in the order of its steps, with all columns of the pairs files.

    Args:
        run: directory of a run.
        pair: ID of the form `FORM`, such as ``mlp-6-6-1/adam:eps=0.001/fp32/loss:base/0.01/3``.

    Raises:
        InputError: if the run has no such pair, or its shard is damaged.
    """
    spec = _spec_of(run)
    parts = pair.split("/")
    if len(parts) != 6:
        raise _unknown(pair, spec)
    network, optimizer, policy, arms, scale_text, init_text = parts
    typed, _, options = optimizer.partition(":")
    name = algorithm_name(typed)
    arm, _, against = arms.partition(":")
    try:
        scale, init = float(scale_text), int(init_text)
    except ValueError:
        raise _unknown(pair, spec) from None
    recipes = {item.algorithm: item.recipe or spec.recipe for item in spec.optimizers}
    key = CellKey(
        network=network, optimizer=name, options=options, recipe=recipes.get(name, spec.recipe), policy=policy
    )
    chosen = [cohort for cohort in spec.cohorts() if cohort.key == key and init in cohort.inits[: cohort.kept]]
    if not chosen:
        raise _unknown(pair, spec)
    frame = records.read_cohorts(run, chosen)
    rows = frame[
        (frame["init"] == init) & (frame["arm"] == arm) & (frame["against"] == against) & (frame["scale"] == scale)
    ]
    if rows.empty:
        raise _unknown(pair, spec)
    ordered = rows.sort_values("step")
    return [{str(name): value for name, value in row.items()} for row in ordered.to_dict("records")]


def example_of(run: Path) -> str:
    """The ID of some pair of a run."""
    return example(_spec_of(run))


def example(spec: RunSpec) -> str:
    """The ID of some pair of the run."""
    optimizer = spec.optimizers[-1]
    family, pairing = spec.family, spec.pairings[-1]
    network = next(item.network for item in spec.networks if optimizer.trains(item.network))
    return "/".join(
        (
            network,
            f"{optimizer.algorithm}:{optimizer.text}" if optimizer.options else optimizer.algorithm,
            spec.policies[0],
            f"{family[pairing.arm].name}:{family[pairing.against].name}",
            f"{family[pairing.arm].scale!r}",
            "0",
        )
    )


def _unknown(pair: str, spec: RunSpec) -> InputError:
    return InputError("--pair", pair, f"this run has no such pair; an ID reads {FORM}, for example {example(spec)}")
