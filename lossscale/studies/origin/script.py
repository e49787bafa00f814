"""Trains every experiment with torch.optim and with our optimizers, and keeps what came out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pandas as pd

from ...design.study import StudyContext
from ...design.verdicts import COLUMNS, FAILS, HOLDS, NO_PREDICTION
from ...runs.summary import summary_text
from ...support.files import write_json, write_text
from . import article
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
    lines = [line for result in results for line in _lines(result, context.device)]
    summary = pd.DataFrame(lines, columns=list(COLUMNS)).drop_duplicates()
    write_json(context.run / RESULTS, results)
    write_text(context.run / "summary.csv", summary_text(summary))


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


def _lines(result: Mapping[str, Any], device: str) -> Iterator[dict[str, Any]]:
    """The experiment in the summary's long form. One pair has no interval: lo and hi stay empty."""
    one, other = result["arms"]
    for run in result["runs"]:
        # torch's own runs carry the recipe's name with torch's in front, so that no line of ours is taken for torch's.
        recipe = run["recipe"] if run["library"] == "kernels" else f"torch-{run['recipe']}"
        common = {"recipe": recipe, "arm": other, "against": one}
        yield _line(
            result, common, "identical_share", float(run["distance"]["identical"]), 1.0 if result["exact"] else None
        )
        yield _line(result, common, "median_rel_distance", run["distance"]["rel_distance"])
        yield _line(result, common, "max_ulp", run["distance"]["max_ulp"])
        yield _line(result, common, "first_layer_rel_distance", run["first_layer_distance"]["rel_distance"])
        for arm, moved in zip((one, other), run["moved"], strict=True):
            still = 0.0 if _cancels(result, arm) else None
            yield _line(result, {"recipe": recipe, "arm": arm, "against": "initial"}, "moved", moved, still)
    for comparison in result["against_torch"]:
        for arm, found in zip((one, other), comparison["sides"], strict=True):
            common = {"recipe": comparison["recipe"], "arm": arm, "against": f"torch-{arm}"}
            same = _reproduces_torch(result["optimizer"], comparison["recipe"], device)
            yield _line(result, common, "identical_share", float(found["identical"]), 1.0 if same else None)
            yield _line(result, common, "max_ulp", found["max_ulp"])
            yield _line(result, common, "median_rel_distance", found["rel_distance"])


def _reproduces_torch(optimizer: str, recipe: str, device: str) -> bool:
    """Whether bits must agree: on CUDA always; on a CPU where no root is taken, as torch's root there is not IEEE's."""
    return recipe == "foreach" and (device == "cuda" or optimizer == "sgd")


def _cancels(result: Mapping[str, Any], arm: str) -> bool:
    """The second script's equal weights: loss1 + loss2 = (label - out) + (label + out), in which out cancels."""
    return bool(result["name"] == "multi-task" and arm == result["arms"][0])


def _line(
    result: Mapping[str, Any], common: Mapping[str, str], quantity: str, measured: float, predicted: float | None = None
) -> dict[str, Any]:
    nothing = float("nan")
    verdict = NO_PREDICTION if predicted is None else HOLDS if measured == predicted else FAILS
    return {
        "study": "origin",
        "network": result["network"],
        "optimizer": result["optimizer"],
        "options": "",
        "policy": "fp32",
        **common,
        "scale": result["scale"],
        "step": result["steps"],
        "pairs": int(math.isfinite(measured)),
        "nonfinite_pairs": int(not math.isfinite(measured)),
        "quantity": quantity,
        "predicted": nothing if predicted is None else predicted,
        "measured": float(measured),
        "lo": nothing,
        "hi": nothing,
        "tolerance": nothing if predicted is None else 0.0,
        "verdict": verdict,
    }
