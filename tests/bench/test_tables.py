"""The measured tables of README and docs are those of the kept results, and a hand cannot change them unseen."""

import pytest

from bench.__main__ import main
from bench.store import tables


def test_tables_are_those_of_the_results(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tables", "--check"]) == 0
    assert "differ from the results: none" in capsys.readouterr().out


def test_a_number_typed_by_hand_is_seen_and_filled_in_again() -> None:
    text = (tables.ROOT / "README.md").read_text()
    assert text.count("<!-- table: ") == text.count("<!-- end -->") == 4
    typed = text.replace("| AdamW fp32 | 2.50 ms |", "| AdamW fp32 | 2.40 ms |")
    assert typed != text and tables.filled(typed) == text
    with pytest.raises(KeyError, match="no-such-table"):
        tables.filled("<!-- table: no-such-table -->\n<!-- end -->")
