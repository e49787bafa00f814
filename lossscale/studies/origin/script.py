"""Trains every experiment with torch.optim and with our optimizers, and keeps what came out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pandas as pd

from ...analysis.judging import Lines
from ...analysis.measured import Measured
from ...design.claims import Claim
from ...design.controls import control_grid
from ...design.study import StudyContext
from ...runs.controls import control_lines
from ...runs.summary import write_lines
from ...support.files import write_json
from . import AS_TORCH, CANCELS, EXACT, article
from .article import Experiment, Trained

RESULTS: Final = "origin.json"
"""What the page is made from: per experiment the final weights and all comparisons."""


def execute(context: StudyContext) -> None:
    """Train every experiment with both libraries and write origin.json and summary.csv.

    The seed is the article's, not the context's.
    """
    steps = context.steps or article.STEPS
    results = []
    for experiment in article.EXPERIMENTS:
        recipes = ["foreach"]
        if experiment.optimizer == "adam" and context.device == "cpu":
            recipes.append("cpu-fused")
        trained = {
            (library, recipe): article.train(
                experiment, library, recipe=recipe, steps=steps, device=context.device, backend=context.backend
            )
            for recipe in recipes
            for library in (article.TORCH, article.OURS)
        }
        results.append(_result(experiment, trained, recipes, steps))
    lines = Lines(context.study)
    for result in results:
        _add_lines(lines, result, context.device)
    write_json(context.run / RESULTS, results)
    # The scripts have one pair each; the controls are the same network, optimizers and steps on 1,024 of them.
    controls = control_lines(context, control_grid(("fp32",), ("sgd", "adam"), steps=steps))
    write_lines(context.run, pd.concat([lines.frame().drop_duplicates(), controls], ignore_index=True))


def _result(
    experiment: Experiment,
    trained: Mapping[tuple[str, str], tuple[Trained, Trained]],
    recipes: Sequence[str],
    steps: int,
) -> dict[str, Any]:
    """All that is kept of an experiment."""
    return {
        "name": experiment.name,
        "asks": experiment.asks,
        "published": experiment.published,
        "exact": experiment.exact,
        "optimizer": experiment.optimizer,
        "network": experiment.network,
        "scale": experiment.scale,
        "steps": steps,
        "arms": [experiment.one.arm, experiment.other.arm],
        "runs": [
            {
                "library": library,
                "recipe": recipe,
                "moved": [side.moved for side in pair],
                "distance": article.compare(pair[1].params, pair[0].params),
                "first_layer_distance": article.compare(pair[1].first_layer, pair[0].first_layer),
                "first_layer": [side.first_layer.tolist() for side in pair],
            }
            for (library, recipe), pair in trained.items()
        ],
        "against_torch": [
            {
                "recipe": recipe,
                "sides": [
                    article.compare(ours.params, theirs.params)
                    for ours, theirs in zip(trained[article.OURS, recipe], trained[article.TORCH, recipe], strict=True)
                ],
            }
            for recipe in recipes
        ],
    }


def _add_lines(lines: Lines, result: Mapping[str, Any], device: str) -> None:
    """The experiment in the summary's long form. One pair has no interval: lo and hi stay empty."""
    one, other = result["arms"]
    cell = {name: result[name] for name in ("network", "optimizer", "scale")} | {"step": result["steps"]}
    for run in result["runs"]:
        # torch's own runs carry the recipe's name with torch's in front, so that no line of ours is taken for torch's.
        recipe = run["recipe"] if run["library"] == "kernels" else f"torch-{run['recipe']}"
        pair = {**cell, "recipe": recipe, "arm": other, "against": one}
        same = float(run["distance"]["identical"])
        _add(lines, "identical_share", same, EXACT if result["exact"] else None, pair)
        _add(lines, "median_rel_distance", run["distance"]["rel_distance"], None, pair)
        _add(lines, "max_ulp", run["distance"]["max_ulp"], None, pair)
        _add(lines, "first_layer_rel_distance", run["first_layer_distance"]["rel_distance"], None, pair)
        for arm, moved in zip((one, other), run["moved"], strict=True):
            still = CANCELS if _cancels(result, arm) else None
            _add(lines, "moved", moved, still, {**cell, "recipe": recipe, "arm": arm, "against": "initial"})
    for comparison in result["against_torch"]:
        for arm, found in zip((one, other), comparison["sides"], strict=True):
            pair = {**cell, "recipe": comparison["recipe"], "arm": arm, "against": f"torch-{arm}"}
            same_bits = _reproduces_torch(result["optimizer"], comparison["recipe"], device)
            _add(lines, "identical_share", float(found["identical"]), AS_TORCH if same_bits else None, pair)
            _add(lines, "max_ulp", found["max_ulp"], None, pair)
            _add(lines, "median_rel_distance", found["rel_distance"], None, pair)


def _add(lines: Lines, quantity: str, value: float, claim: Claim | None, cell: Mapping[str, Any]) -> None:
    finite = int(math.isfinite(value))
    lines.add(quantity, Measured(value=float(value), count=finite), claim, nonfinite=1 - finite, **cell)


def _reproduces_torch(optimizer: str, recipe: str, device: str) -> bool:
    """Whether bits must agree: on CUDA always; on a CPU where no root is taken, as torch's root there is not IEEE's."""
    return recipe == "foreach" and (device == "cuda" or optimizer == "sgd")


def _cancels(result: Mapping[str, Any], arm: str) -> bool:
    """The second script's equal weights: loss1 + loss2 = (label - out) + (label + out), in which out cancels."""
    return bool(result["name"] == "multi-task" and arm == result["arms"][0])
