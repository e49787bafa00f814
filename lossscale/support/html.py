"""The shell of the pages: one file, readable in light and dark and on a phone, that loads nothing from anywhere.

Made of the Jinja2 templates beside this file, with escaping on. Arguments called HTML stand as they are; every other
text is escaped. Jinja2 is imported when a page is made.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .output import cell, heading, is_number

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES: Final = Path(__file__).with_name("templates")
_VERDICTS: Final = {"holds": "holds", "fails": "fails", "no prediction": "unpredicted"}


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page.

    Args:
        title: its heading, plain text.
        body: its content, HTML.
        anchor: the id to link to; with one, the section stands in the list at the top.
        link: how it stands there, where not by its title; empty: not at all.
    """

    title: str
    body: str
    anchor: str = ""
    link: str | None = None

    @property
    def listed(self) -> str:
        """Its text in the list at the top; empty if it does not stand there."""
        return (self.title if self.link is None else self.link) if self.anchor else ""


@dataclass(frozen=True, kw_only=True)
class _Text:
    """A cell or heading of a table, with its class."""

    text: str
    kind: str


def render(template: Path, values: Mapping[str, Any]) -> str:
    """A template's HTML; it may include and import those of this folder by their names.

    Args:
        template: its file.
        values: what it shows. Texts are escaped, but for those that `as_html` marks.
    """
    return _environment(template.parent).get_template(template.name).render(values)


def as_html(html: str) -> str:
    """Marks a text as HTML, which a template takes as it is."""
    from markupsafe import Markup

    return Markup(html)


def page(title: str, sections: Sequence[Section], *, lead: str = "", footer: str = "", head: str = "") -> str:
    """A whole HTML document.

    Args:
        title: plain text, in the window and above the page.
        sections: what follows the lead, in order.
        lead: the answer in a few sentences, HTML.
        footer: provenance and the like, HTML.
        head: HTML for the document's head, such as the one inline script that all figures use.
    """
    values = {
        "title": title,
        "sections": sections,
        "links": [section for section in sections if section.listed],
        "lead": as_html(lead),
        "footer": as_html(footer),
        "head": as_html(head),
    }
    return render(TEMPLATES / "page.html", values)


def paragraph(text: str) -> str:
    """Plain text as a paragraph."""
    return str(_parts().paragraph(text))


def preformatted(text: str) -> str:
    """Plain text with its line ends, in letters of one width."""
    return str(_parts().preformatted(text))


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
    kinds = {name: _kind([row.get(name) for row in rows]) for name in names}
    headings = [_Text(text=(titles or {}).get(name, heading(name)), kind=kinds[name]) for name in names]
    cells = [[_cell(name, row.get(name), kinds[name]) for name in names] for row in rows]
    return str(_parts().table(headings, cells, caption))


def _kind(values: Sequence[Any]) -> str:
    """Numbers go to the right; sentences get room, so that they do not become columns of words."""
    if any(is_number(value) for value in values):
        return "number"
    return "sentence" if any(isinstance(value, str) and len(value) > _SENTENCE for value in values) else ""


_SENTENCE = 60
"""Characters from which on a text is a sentence."""


def figure(html: str, caption: str = "") -> str:
    """A picture, given as HTML, with a plain-text caption below."""
    return str(_parts().figure(as_html(html), caption))


def details(summary: str, body: str) -> str:
    """HTML that opens when its plain-text summary is clicked."""
    return str(_parts().details(summary, as_html(body)))


def _cell(name: str, value: object, kind: str) -> _Text:
    text = cell(name, value)
    return _Text(text=text, kind=_VERDICTS.get(text, kind))


def _parts() -> Any:
    """The macros of parts.html."""
    return _environment(TEMPLATES).get_template("parts.html").module


@cache
def _environment(folder: Path) -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader([folder, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
