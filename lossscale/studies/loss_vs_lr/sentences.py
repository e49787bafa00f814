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
        up, down = WORDS[words[0]], WORDS[words[1]]
        if up == down or UNKNOWN in (up, down):
            side = "" if up == down else " for s > 1" if down == UNKNOWN else " for s < 1"
            said = f"{max(up, down, key=WORDS.index)}{side}"
        else:
            said = f"{up} for s > 1 but {down} for s < 1"
        own_answers = [[it for it in found if it.label == label] for label in names]
        parts.append(f"{said} under {_names(found, names)}{_reaches(own_answers, up, down)}")
    step = max(answer.step for answer in found)
    several = len(strongest) > len(set(strongest.values()))
    pairs = any(not math.isnan(size) for answer in found for size in (answer.largest.up, answer.largest.down))
    return (
        f"Does multiplying the loss by s change training? {_capital('; '.join(parts))}. In brackets: the s nearest to "
        f"1 where that holds, and how far apart the weights end after {step} step{'s' if step != 1 else ''} as a "
        f"multiple of their size, the largest median over s{' (the least of several optimizers’)' if several else ''}"
        f"{' to the largest single pair' if pairs else ''}."
    )


def _reaches(group: Sequence[Sequence[Answer]], up: str, down: str) -> str:
    """`` (s ≥ 2: 0.3 to 0.5, s ≤ 0.1: 0.02)`` of optimizers, each on all networks; the s is that of all of them."""
    above = [[it.up_from for it in own if it.up == up and not math.isnan(it.up_from)] for own in group]
    below = [[it.down_from for it in own if it.down == down and not math.isnan(it.down_from)] for own in group]
    parts = []
    if any(above):
        medians = [_reach(it.distance_up for it in own) for own in group]
        said = _span(medians, _reach(it.largest.up for own in group for it in own))
        parts.append(f"s ≥ {max(min(each) for each in above if each):g}: {said}")
    if any(below):
        medians = [_reach(it.distance_down for it in own) for own in group]
        said = _span(medians, _reach(it.largest.down for own in group for it in own))
        parts.append(f"s ≤ {min(max(each) for each in below if each):g}: {said}")
    return f" ({', '.join(parts)})" if parts else ""


def _span(medians: Sequence[float], largest: float) -> str:
    """From the least median to the largest pair, or to the largest median where no pair is known."""
    known = [value for value in medians if not math.isnan(value)]
    low, high = (min(known), max(known) if math.isnan(largest) else largest) if known else (largest, largest)
    return f"{low:.2g}" if low == high else f"{low:.2g} to {high:.2g}"


def _same_sentence(found: Sequence[Answer]) -> str:
    measured = [answer for answer in found if answer.same_of]
    if not measured:
        return "Is it the same as multiplying the learning rate by s? No pairs of the two are finite and have moved."
    yes, no = _split(measured, lambda answer: answer.same_as_lr)
    parts = []
    if yes:
        group = [answer for answer in measured if answer.label in yes]
        same, of = sum(answer.same_pairs for answer in group), sum(answer.same_of for answer in group)
        said = f"yes under {_names(found, yes)}: {same} of {of} pairs at s = 2^k agree in every bit at every checkpoint"
        same, of = sum(answer.elsewhere_pairs for answer in group), sum(answer.elsewhere_of for answer in group)
        if of:
            said += f", at other s, where products round, {_most(group)}{same} of {of}, and the two end {_apart(group)}"
        parts.append(said)
    if no:
        group = [answer for answer in measured if answer.label in no]
        same, of = sum(answer.same_pairs for answer in group), sum(answer.same_of for answer in group)
        most = _most(group) if same else ""
        parts.append(f"no under {_names(found, no)}: {most}{same} of {of} agree, and the two end {_apart(group)}")
    return f"Is it the same as multiplying the learning rate by s? {_capital('; '.join(parts))}."


def _most(group: Iterable[Answer]) -> str:
    """Where only a summary is left, counts of pairs that do not all agree are upper bounds."""
    return "at most " if any(answer.largest.agree is None for answer in group) else ""


def _apart(group: Sequence[Answer]) -> str:
    """How far loss × s ends from lr × s, in the mean of their sizes, beside the control at the larger rate."""
    median, pair = _reach(it.distance_to_lr for it in group), _reach(it.largest.to_lr for it in group)
    single = "" if math.isnan(pair) else f", a single pair up to {pair:.2g}"
    floor = _reach(it.lr_floor for it in group)
    control = "" if math.isnan(floor) else f" (an ulp at the start of lr × s: {floor:.2g})"
    return f"up to {median:.2g} of their mean size apart in the median{single}{control}"


def _mapped_sentence(found: Sequence[Answer]) -> str:
    same, of = sum(answer.mapped_pairs for answer in found), sum(answer.mapped_of for answer in found)
    hold, fail = sum(answer.hold for answer in found), sum(answer.fail for answer in found)
    wrong = [answer.label for answer in found if answer.mapped_of and not answer.mapped_identical]
    if not of:
        verdict = "no such pairs are finite and have moved"
    elif wrong:
        most = _most(found) if same else ""
        verdict = f"not always: {most}{same} of {of} pairs agree in every bit at every checkpoint"
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
