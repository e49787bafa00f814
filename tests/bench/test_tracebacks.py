"""Texts of other people's exceptions are safe to keep and to show."""

import pytest

from bench.tracebacks import first_line, kept_traceback


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07gone", "?[2J?]0;title?gone"),
        ("half \ud800", "half ?"),
        ("a\tb\nc", "a\tb"),
        ("µ → ∞", "µ → ∞"),
        ("\x9b31m", "?31m"),
    ],
)
def test_nothing_steers_the_terminal(said: str, shown: str) -> None:
    assert first_line(ValueError(said)) == shown
    try:
        raise ValueError(said)
    except ValueError:
        assert shown in kept_traceback()
