"""What the comparisons that fail have in common, and few of those that pass."""

from __future__ import annotations

from collections.abc import Sequence

from ..rows import Row

_MOST, _ENOUGH = 3, 4
"""Settings that are named, and failures from which on more than one is."""


def common_text(rows: Sequence[Row], broken: Sequence[Row]) -> list[str]:
    """A line for each provider and optimizer with several failures, if they share what passing comparisons lack."""
    lines = []
    for provider, optimizer in dict.fromkeys((row.provider, row.optimizer) for row in broken):
        failing = [row for row in broken if (row.provider, row.optimizer) == (provider, optimizer)]
        compared = [row for row in rows if (row.provider, row.optimizer) == (provider, optimizer)]
        passing = [row for row in compared if row.outcome.compared and not row.outcome.failed]
        if text := _shared(failing, [row for row in passing if row.against != "float64"]):
            lines.append(f"in common: all {len(failing)} failures of {provider} {optimizer} have {text}")
    return lines


def _shared(failing: Sequence[Row], passing: Sequence[Row]) -> str:
    """The settings that all failures have, as long as each tells some more of them from what passes."""
    if len(failing) < 2 or not passing:
        return ""
    shared = sorted(set.intersection(*map(_settings, failing)))
    chosen: list[str] = []
    left = list(passing)
    while shared and left and len(chosen) < _MOST:
        # Of two that tell as much the shorter one: a name says more than a name and a value.
        best = min(shared, key=lambda setting: (sum(setting in _settings(row) for row in left), len(setting)))
        remaining = [row for row in left if best in _settings(row)]
        if (4 if chosen else 2) * len(remaining) > len(left) or (chosen and len(failing) < _ENOUGH):
            break
        chosen.append(best)
        left = remaining
    if not chosen:
        return ""
    return f"{' and '.join(chosen)}, as {f'do {len(left)}' if left else 'does none'} of the {len(passing)} that pass"


def _settings(row: Row) -> set[str]:
    """What makes a comparison what it is, a word each: option names, with and without values, and the rest."""
    words = f"{row.options} {row.groups.replace('(', '').replace(')', '')}".replace("gradients kept", "gradients-kept")
    given = {word.rstrip(";") for word in words.split() if not word.endswith(":") and word != "group"}
    names = {word.partition("=")[0] for word in given}
    return {*given, *names, row.dtype, f"layout={row.shape}", f"values={row.values}"} - {"lr"}
