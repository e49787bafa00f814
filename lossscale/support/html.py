"""The shell of the pages: one file, readable in light and dark, that loads nothing from anywhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from .output import format_cell, is_number

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2330; --faint: #5d6677; --paper: #ffffff; --line: #dfe3ea; --tint: #f5f7fa;
  --accent: #1f5fbf; --good: #1a7f45; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ef; --faint: #9aa4b5; --paper: #14171d; --line: #2e3440;
  --tint: #1c2028; --accent: #7fb0ff; --good: #63c98c; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.6 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 64rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .5rem; }
p, li, figcaption, caption { max-width: 46rem; }
a { color: var(--accent); }
.lead { font-size: 1.15rem; }
nav { font-size: .95rem; margin: 1.25rem 0 0; }
nav a { margin-right: 1.25rem; }
.scroll { overflow-x: auto; margin: 1rem 0 1.5rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption, figcaption { text-align: left; color: var(--faint); font-size: .92rem; padding: .25rem 0 .5rem; }
th, td { padding: .35rem .8rem .35rem 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--faint); font-weight: 600; white-space: nowrap; }
.number { text-align: right; white-space: nowrap; }
.holds { color: var(--good); font-weight: 600; }
.fails { color: var(--bad); font-weight: 600; }
.unpredicted { color: var(--faint); }
figure { margin: 1.25rem 0 2rem; }
code, pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: .9em; }
pre { background: var(--tint); padding: .9rem 1rem; overflow-x: auto; border-radius: 6px; }
details { margin: 1rem 0; }
summary { cursor: pointer; color: var(--accent); }
footer { margin-top: 3.5rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--faint);
  font-size: .9rem; }
"""
_VERDICTS = {"holds": "holds", "fails": "fails", "no prediction": "unpredicted"}


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page.

    Args:
        title: its heading, plain text.
        body: its content, HTML.
        anchor: the id to link to; with one, the section stands in the list at the top.
    """

    title: str
    body: str
    anchor: str = ""


def page(title: str, sections: Sequence[Section], *, lead: str = "", footer: str = "", head: str = "") -> str:
    """A whole HTML document.

    Args:
        title: plain text, in the window and above the page.
        sections: what follows the lead, in order.
        lead: the answer in a few sentences, HTML.
        footer: provenance and the like, HTML.
        head: HTML for the document's head, such as the one inline script that all figures use.
    """
    links = [f'<a href="#{escape(s.anchor)}">{escape(s.title)}</a>' for s in sections if s.anchor]
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        # An empty icon, or browsers ask the server for one.
        '<link rel="icon" href="data:,">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>{head}</head>",
        f"<body><main><h1>{escape(title)}</h1>",
        f'<div class="lead">{lead}</div>' if lead else "",
        f"<nav>{''.join(links)}</nav>" if len(links) > 1 else "",
        *(_section(section) for section in sections),
        f"<footer>{footer}</footer>" if footer else "",
        "</main></body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def paragraph(text: str) -> str:
    """Plain text as a paragraph."""
    return f"<p>{escape(text)}</p>"


def table(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str] | None = None,
    *,
    titles: Mapping[str, str] | None = None,
    caption: str = "",
) -> str:
    """Rows as a table, with numbers to the right and verdicts in colour.

    Args:
        rows: one mapping a row; values are escaped, floats shown with four significant digits.
        columns: which, in what order; by default all.
        titles: headings for columns whose name does not say enough.
        caption: plain text.
    """
    names = list(columns) if columns is not None else list(dict.fromkeys(name for row in rows for name in row))
    numeric = {name for name in names if any(is_number(row.get(name)) for row in rows)}
    headings = "".join(
        f'<th scope="col"{_class("number" if name in numeric else "")}>{escape((titles or {}).get(name, name))}</th>'
        for name in names
    )
    body = "\n".join(
        "<tr>" + "".join(_cell(row.get(name), name in numeric) for name in names) + "</tr>" for row in rows
    )
    heading = f"<caption>{escape(caption)}</caption>" if caption else ""
    head = f"<thead><tr>{headings}</tr></thead>"
    return f'<div class="scroll"><table>{heading}{head}\n<tbody>\n{body}\n</tbody></table></div>'


def figure(html: str, caption: str = "") -> str:
    """A picture, given as HTML, with a plain-text caption below."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{html}{below}</figure>"


def details(summary: str, body: str) -> str:
    """HTML that opens when its plain-text summary is clicked."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def _section(section: Section) -> str:
    anchor = f' id="{escape(section.anchor)}"' if section.anchor else ""
    return f"<section{anchor}><h2>{escape(section.title)}</h2>\n{section.body}</section>"


def _cell(value: object, numeric: bool) -> str:
    text = format_cell(value)
    kind = _VERDICTS.get(text, "number" if numeric else "")
    return f"<td{_class(kind)}>{escape(text)}</td>"


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""
