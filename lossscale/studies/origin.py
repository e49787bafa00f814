"""The article's two scripts, run again with torch.optim and with our optimizers, beside the controls they lack."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from . import Study, StudyContext

if TYPE_CHECKING:
    from ..article import Experiment, Trained

RESULTS: Final = "origin.json"
"""What the page is made from: per experiment the final weights and all comparisons."""


_NOTES: Final = (
    "On a CPU SGD must have torch's bits, and the table says whether it has. Adam cannot: there torch takes its "
    "roots with a vector library that is not correctly rounded and rounds its products otherwise than on CUDA, "
    "whose bits recipe foreach reproduces. Differences of an ulp a step grow where weights pass near 0.",
    "torch's fused Adam takes the IEEE root on a CPU, and recipe cpu-fused has its bits for tensors whose size is a "
    "multiple of 64. This network's have 36, 6 and 1 elements, where torch's scalar tail may round otherwise: the "
    "comparison is shown, and nothing is promised.",
)


def execute(context: StudyContext) -> None:
    """Train every experiment with both libraries and write origin.json and summary.csv.

    The seed is the article's, not the context's.
    """
    import pandas as pd

    from .. import article
    from ..summary import COLUMNS, summary_text
    from ..support.files import write_json, write_text

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
    from .. import article

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
    verdict = "no prediction" if predicted is None else "holds" if measured == predicted else "fails"
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


def table(run: Path) -> list[dict[str, Any]]:
    """One row per experiment: how far apart the two networks end, with each library, and ours against torch's."""
    rows = []
    for result in _read(run):
        by_library = {entry["library"]: entry for entry in result["runs"] if entry["recipe"] == "foreach"}
        theirs, ours = by_library["torch"], by_library["kernels"]
        rows.append(
            {
                "experiment": result["name"],
                "source": "article" if result["published"] else "control",
                "distance_torch": theirs["distance"]["rel_distance"],
                "distance_ours": ours["distance"]["rel_distance"],
                "first_layer_ours": ours["first_layer_distance"]["rel_distance"],
                "moved_one": ours["moved"][0],
                "moved_other": ours["moved"][1],
                "result": _outcome(ours),
                "ours_against_torch": _agreement(result, "foreach"),
            }
        )
    return rows


def sections(run: Path) -> Iterator[tuple[str, str]]:
    """The page: what happened in words, then each experiment with its final first-layer weights."""
    from ..support.html import details, paragraph
    from ..support.html import table as html_table

    results = _read(run)
    caption = (
        "distance: |other − one| / |one| over all weights of the two networks, after the last step. moved: distance "
        "of each network from its initial weights. ours against torch: the same network trained with both "
        "libraries, bits compared."
    )
    yield "All experiments", html_table(table(run), caption=caption) + "".join(paragraph(text) for text in _NOTES)
    for result in results:
        own, theirs = (
            f"<pre>{_matrices(entry['first_layer'])}</pre>"
            for library in ("kernels", "torch")
            for entry in result["runs"]
            if (entry["library"], entry["recipe"]) == (library, "foreach")
        )
        shown = (
            paragraph("Final first-layer weights of network one (left) and network two (right), our optimizers:") + own
        )
        folded = details("The same with torch.optim", theirs)
        yield result["asks"], paragraph(" ".join(_words(result))) + shown + folded


def _words(result: Mapping[str, Any]) -> Iterator[str]:
    """The experiment's outcome as sentences, from its numbers."""
    ours = next(entry for entry in result["runs"] if (entry["library"], entry["recipe"]) == ("kernels", "foreach"))
    distance, first = ours["distance"], ours["first_layer_distance"]
    if distance["identical"]:
        yield "The two networks end with the same bits in every weight."
    else:
        yield (
            f"The two networks end {distance['rel_distance']:.2g} of their size apart (first layer "
            f"{first['rel_distance']:.2g}); {distance['differing_elements']} weights differ."
        )
    one, other = ours["moved"]
    if one == 0.0:
        yield (
            "Network one never moves. Its loss is (label − out) + (label + out) = 2 · label: the output cancels, "
            "every gradient is exactly 0, and Adam divides 0 by eps. So this script compares a network that trains "
            "with one that cannot, and says nothing about loss weights; the two-headed control below does."
        )
    else:
        yield f"They moved {one:.3g} and {other:.3g} away from their initial weights."
    yield f"Ours against torch.optim on this device, after {result['steps']} steps: {_agreement(result, 'foreach')}."
    if any(item["recipe"] == "cpu-fused" for item in result["against_torch"]):
        yield f"The fused pair (recipe cpu-fused against torch's fused=True): {_agreement(result, 'cpu-fused')}."


def _outcome(entry: Mapping[str, Any]) -> str:
    if entry["moved"][0] == 0.0:
        return "one never moved: its gradient is 0"
    if entry["distance"]["identical"]:
        return "same bits"
    distance = entry["distance"]["rel_distance"]
    return "nearly the same" if distance < 1e-3 else "different" if math.isfinite(distance) else "not finite"


def _agreement(result: Mapping[str, Any], recipe: str) -> str:
    sides = next(item["sides"] for item in result["against_torch"] if item["recipe"] == recipe)
    if all(side["identical"] for side in sides):
        return "same bits"
    ulp, distance = max(side["max_ulp"] for side in sides), max(side["rel_distance"] for side in sides)
    return f"up to {ulp} ulp, {distance:.1g} of the size"


def _matrices(pair: Sequence[Sequence[Sequence[float]]]) -> str:
    """Two weight matrices side by side, with the article's four decimals."""
    one, other = pair
    return "\n".join(f"{_numbers(left)}  |{_numbers(right)}" for left, right in zip(one, other, strict=True))


def _numbers(row: Sequence[float]) -> str:
    return "".join(f"{value:10.4f}" for value in row)


def _read(run: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((run / RESULTS).read_text(encoding="utf-8"))
    return found


STUDY = Study(
    name="origin",
    title="The article's two scripts, run again",
    shows="what the article's two scripts do, as published and with our optimizers, and the controls they lack",
    cost="two seconds",
    execute=execute,
    table=table,
    sections=sections,
)
