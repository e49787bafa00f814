"""docs/answers.md: what it says in short stands in the output that it quotes, and its links and commands are real."""

import re
import shlex
from pathlib import Path

import pytest

from lossscale.__main__ import COMMANDS, main

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "answers.md").read_text(encoding="utf-8")
BLOCKS = [body for kind, body in re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE) if not kind]
QUOTED = " ".join(" ".join(BLOCKS).split())
SHORT = TEXT.split("## In short")[1].split("## Is loss/10")[0]
RATCHET = TEXT.split("| beta2 | random")[1].split("```")[0]


def _anchor(heading: str) -> str:
    """As GitHub makes them."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_links_of_the_page_lead_to_its_headings() -> None:
    anchors = {_anchor(heading) for heading in re.findall(r"^## (.*)$", TEXT, re.MULTILINE)}
    links = set(re.findall(r"\]\(#([^)]*)\)", TEXT))
    assert links and links - anchors == set()


def test_the_five_named_questions_are_answered_in_short() -> None:
    for words in (
        "Which eps for",
        "bfloat16 second moment safe",
        "decay does nothing",
        "sums instead of",
        "width scaling",
    ):
        assert words in SHORT, words


@pytest.mark.parametrize(
    "number", sorted({*re.findall(r"× (0\.\d+|1\.\d+)", SHORT + RATCHET), "0.48 %", "0.374", "0.038"})
)
def test_numbers_in_short_are_those_that_a_command_printed(number: str) -> None:
    assert number in SHORT + RATCHET and re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", QUOTED), number


def test_quick_commands_print_what_is_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    """Those that take no run and no file, word for word up to each cut."""
    quick = ("rescale adamw --scale 8", "rescale sgd --scale 1/4", "convert-eps")
    seen = 0
    for block in BLOCKS:
        for example in block.split("$ python -m lossscale ")[1:]:
            command, _, expected = example.partition("\n")
            if not command.startswith(quick):
                continue
            assert main(shlex.split(command)) == 0
            said = capsys.readouterr()
            printed = " ".join((said.out + said.err).split())
            for part in re.split("…", expected):
                assert " ".join(part.split()) in printed, (command, part)
            seen += 1
    assert seen == 4


def test_commands_of_the_page_are_commands() -> None:
    named = {line.split()[0] for line in re.findall(r"python -m lossscale ([^`\n]+)", TEXT)}
    assert named <= {command.name for command in COMMANDS}
