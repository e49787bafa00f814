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
    spec = records.read_manifest(run).run_spec
    if spec is None:
        raise InputError("RUN", run, "this study is a script and has no pairs; see its summary.csv")
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


def example(spec: RunSpec) -> str:
    """The ID of some pair of the run."""
    optimizer = spec.optimizers[-1]
    family, pairing = spec.family, spec.pairings[-1]
    return "/".join(
        (
            spec.networks[0].network,
            f"{optimizer.algorithm}:{optimizer.text}" if optimizer.options else optimizer.algorithm,
            spec.policies[0],
            f"{family[pairing.arm].name}:{family[pairing.against].name}",
            f"{family[pairing.arm].scale!r}",
            "0",
        )
    )


def _unknown(pair: str, spec: RunSpec) -> InputError:
    return InputError("--pair", pair, f"this run has no such pair; an ID reads {FORM}, for example {example(spec)}")
