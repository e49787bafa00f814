import re
from html.parser import HTMLParser

from lossscale.support import html


class Checker(HTMLParser):
    """Collects open elements and everything that would be loaded from elsewhere."""

    VOID = ("meta", "link", "br", "img", "hr")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in {"src", "href"}]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def example() -> str:
    rows = [
        {"optimizer": "sgd", "identical_share": 1.0, "verdict": "holds"},
        {"optimizer": "<adam>", "identical_share": float("nan"), "verdict": "fails"},
    ]
    table = html.table(rows, titles={"identical_share": "identical pairs"}, caption="Shares & verdicts")
    body = html.paragraph("a < b") + table + html.figure("<svg></svg>", "A > B") + html.details("More", "<p>x</p>")
    sections = [
        html.Section(title="Table", body=body, anchor="table"),
        html.Section(title="End", body="", anchor="end"),
    ]
    return html.page("Loss & rate", sections, lead="<p>Yes.</p>", footer="torch", head="<script>let x = 1;</script>")


def test_the_page_is_well_formed_and_loads_nothing() -> None:
    checker = Checker()
    text = example()
    checker.feed(text)
    assert checker.open == []
    assert checker.loaded == ["data:,", "#table", "#end"]
    assert not re.search(r"https?://|@import|url\(", text)


def test_texts_are_escaped_and_html_is_kept() -> None:
    text = example()
    for part in (
        "<title>Loss &amp; rate</title>",
        "<p>a &lt; b</p>",
        "<td>&lt;adam&gt;</td>",
        "<figcaption>A &gt; B</figcaption>",
        "<svg></svg>",
        "<script>let x = 1;</script></head>",
    ):
        assert part in text


def test_numbers_go_right_and_verdicts_have_their_colour() -> None:
    text = example()
    assert '<th scope="col" class="number">identical pairs</th>' in text
    assert '<td class="number">1</td>' in text
    assert '<td class="number"></td>' in text
    assert '<td class="holds">holds</td>' in text
    assert '<td class="fails">fails</td>' in text


def test_both_colour_schemes_are_there() -> None:
    assert "color-scheme: light dark" in example()
    assert "@media (prefers-color-scheme: dark)" in example()


def test_sections_without_anchors_make_no_list() -> None:
    text = html.page("T", [html.Section(title="One", body="<p>1</p>")])
    assert "<nav>" not in text
    assert "<h2>One</h2>" in text
