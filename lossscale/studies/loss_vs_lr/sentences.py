"""The three answers as sentences, each with the numbers it rests on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from ...report.labels import optimizer_label
from .answers import UNKNOWN, WORDS, Answer


def sentences(found: Sequence[Answer]) -> list[str]:
    """One sentence for each of the three questions."""
    if not found:
        return []
    return [_changes_sentence(found), _same_sentence(found), _mapped_sentence(found)]


def _changes_sentence(found: Sequence[Answer]) -> str:
    strongest: dict[str, tuple[int, int]] = {}
    for answer in found:
        before = strongest.get(answer.label, (0, 0))
        own = (WORDS.index(answer.up), WORDS.index(answer.down))
        strongest[answer.label] = (max(before[0], own[0]), max(before[1], own[1]))
    parts = []
    for words in sorted(set(strongest.values()), reverse=True):
        names = [label for label, its in strongest.items() if its == words]
        group = [answer for answer in found if answer.label in names]
        up, down = WORDS[words[0]], WORDS[words[1]]
        above, below = (_reach(getattr(item, side) for item in group) for side in ("distance_up", "distance_down"))
        if up == down or UNKNOWN in (up, down):
            side = "" if up == down else " for s > 1" if down == UNKNOWN else " for s < 1"
            said = _said(max(up, down, key=WORDS.index), _reach([above, below]), side)
        else:
            said = f"{_said(up, above, ' for s > 1')} but {_said(down, below, ' for s < 1')}"
        parts.append(f"{said} under {_names(found, names)}")
    step = max(answer.step for answer in found)
    return (
        f"Does multiplying the loss by s change training? {_capital('; '.join(parts))}. In brackets is how far apart "
        f"the weights end after {step} step{'s' if step != 1 else ''}, as a multiple of their size."
    )


def _said(word: str, reach: float, side: str) -> str:
    """``yes for s > 1 (up to 0.3)``."""
    return f"{word}{side}" if math.isnan(reach) else f"{word}{side} (up to {reach:.2g})"


def _same_sentence(found: Sequence[Answer]) -> str:
    measured = [answer for answer in found if answer.same_of]
    if not measured:
        return "Is it the same as multiplying the learning rate by s? This run has no pairs of the two."
    yes, no = _split(measured, lambda answer: answer.same_as_lr)
    parts = []
    if yes:
        group = [answer for answer in measured if answer.label in yes]
        same, of = sum(answer.same_pairs for answer in group), sum(answer.same_of for answer in group)
        parts.append(
            f"yes under {_names(found, yes)}: {same} of {of} pairs at s = 2^k agree in every bit at every checkpoint"
        )
    if no:
        group = [answer for answer in measured if answer.label in no]
        same, of = sum(answer.same_pairs for answer in group), sum(answer.same_of for answer in group)
        reach = _reach(answer.distance_to_lr for answer in group)
        parts.append(f"no under {_names(found, no)}: {same} of {of} agree, and the two end up to {reach:.2g} apart")
    return f"Is it the same as multiplying the learning rate by s? {_capital('; '.join(parts))}."


def _mapped_sentence(found: Sequence[Answer]) -> str:
    same, of = sum(answer.mapped_pairs for answer in found), sum(answer.mapped_of for answer in found)
    hold, fail = sum(answer.hold for answer in found), sum(answer.fail for answer in found)
    wrong = [answer.label for answer in found if answer.mapped_of and not answer.mapped_identical]
    if not of:
        verdict = "this run has no such pairs"
    elif wrong:
        verdict = f"not always: {same} of {of} pairs agree in every bit at every checkpoint"
        verdict += f", with differences under {_names(found, wrong)}"
    else:
        verdict = f"yes: all {of} pairs agree in every bit at every checkpoint"
    tail = f"{hold} of {hold + fail} judged predictions hold" + (f", {fail} fail" if fail else "")
    return f"Do hyperparameters mapped to the new loss scale undo s = 2^k? {_capital(verdict)}; {tail}."


def _split(found: Iterable[Answer], holds: Callable[[Answer], bool]) -> tuple[list[str], list[str]]:
    """Labels for which it holds on every network, and the others."""
    verdicts: dict[str, bool] = {}
    for answer in found:
        verdicts[answer.label] = verdicts.get(answer.label, True) and holds(answer)
    return [label for label, good in verdicts.items() if good], [label for label, good in verdicts.items() if not good]


def _reach(values: Iterable[float]) -> float:
    return max((value for value in values if not math.isnan(value)), default=float("nan"))


def _join(labels: Sequence[str]) -> str:
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} and {labels[-1]}"


def _names(found: Sequence[Answer], labels: Iterable[str]) -> str:
    """The labels as a list in words; an optimizer whose options all stand there is named once, without them."""
    chosen = set(labels)
    named: dict[str, None] = {}
    for answer in found:
        if answer.label in chosen:
            siblings = {other.label for other in found if other.optimizer == answer.optimizer}
            named[optimizer_label(answer.optimizer, "") if siblings <= chosen else answer.label] = None
    return _join(list(named))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
