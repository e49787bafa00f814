"""How the study shows itself: a row per experiment, and each experiment's final weights on the page."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ...report.neutral import Neutral
from ...support.html import details, paragraph, preformatted, table
from .script import RESULTS

_NOTES: Final = (
    "On a CPU SGD must have torch's bits, and the table says whether it has. Adam cannot: there torch takes its "
    "roots with a vector library that is not correctly rounded and rounds its products otherwise than on CUDA, "
    "whose bits recipe foreach reproduces. Differences of an ulp a step grow where weights pass near 0.",
    "torch's fused Adam takes the IEEE root on a CPU, and recipe cpu-fused has its bits for tensors whose size is a "
    "multiple of 64. This network's have 36, 6 and 1 elements, where torch's scalar tail may round otherwise: the "
    "comparison is shown, and nothing is promised.",
)


class Experiments(Neutral):
    """The presentation of ``origin``."""

    question = "Is the loss times s the same as the learning rate times s, as the article’s scripts have it?"
    limits = (
        "One pair an experiment, as published: seed 20, 20 steps, one network of 49 parameters, lr 0.01. One pair has "
        "no interval, and a distance of it is an example; loss-vs-lr has the same question with many.",
        "The controls are not the scripts’ pairs but 1,024 of the same network, optimizers and number of steps.",
    )

    def table(self, run: Path) -> list[dict[str, Any]]:
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

    def sentences(self, run: Path) -> Sequence[str]:
        """The article's question answered, from what was measured."""
        return list(_answers({result["name"]: result for result in _read(run)}))

    def legend(self, run: Path) -> Sequence[str]:
        """None: the page's table has a caption."""
        del run
        return []

    def sections(self, run: Path) -> Iterator[tuple[str, str, str]]:
        """The page: what happened in words, then each experiment with its final first-layer weights."""
        results = _read(run)
        caption = (
            "distance: |other − one| / |one| over all weights of the two networks, after the last step. moved: "
            "distance of each network from its initial weights. ours against torch: the same network trained with both "
            "libraries, bits compared."
        )
        yield (
            "All experiments",
            "",
            table(self.table(run), caption=caption) + "".join(paragraph(text) for text in _NOTES),
        )
        for result in results:
            own, theirs = (
                preformatted(_matrices(entry["first_layer"]))
                for library in ("kernels", "torch")
                for entry in result["runs"]
                if (entry["library"], entry["recipe"]) == (library, "foreach")
            )
            shown = (
                paragraph("Final first-layer weights of network one (left) and network two (right), our optimizers:")
                + own
            )
            folded = details("The same with torch.optim", theirs)
            yield result["asks"], "", paragraph(" ".join(_words(result))) + shown + folded


def _answers(results: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What the article's two scripts show, and what they do not, in numbers."""

    def apart(name: str) -> str:
        distance = _ours(results[name])["distance"]
        if distance["identical"]:
            return "with the same bits"
        return f"{distance['rel_distance']:.2g} of their size apart"

    def word(name: str) -> str:
        return "no" if _outcome(_ours(results[name])) == "different" else "yes"

    yield (
        f"Is the loss times s the same as the learning rate times s? Under SGD {word('sgd')}: at s = "
        f"{results['sgd']['scale']:g} the article's two networks end {apart('sgd')}, at s = 2^13 {apart('sgd-2^13')}."
    )
    yield (
        f"Under Adam the loss times {results['adam']['scale']:g} ends {apart('adam')} from the loss itself, the "
        f"learning rate times as much too {apart('adam-lr')}; with eps following the loss, at s = 2^13, "
        f"{apart('adam-mapped-2^13')}."
    )
    if _ours(results["multi-task"])["moved"][0] == 0.0:
        yield (
            "The article's script on loss weights shows nothing about them: in one of its networks every gradient is "
            f"0. With two heads, other weights of the losses end {apart('two-heads')}, a common factor "
            f"{apart('two-heads-common')}."
        )


def _ours(result: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(
        entry for entry in result["runs"] if (entry["library"], entry["recipe"]) == ("kernels", "foreach")
    )
    return found


def _words(result: Mapping[str, Any]) -> Iterator[str]:
    """The experiment's outcome as sentences, from its numbers."""
    ours = _ours(result)
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
