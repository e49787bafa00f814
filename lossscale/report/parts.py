"""Pieces of HTML that pages are made of beyond tables and figures; their templates lie beside this file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from ..support.html import as_html, render
from .labels import raised_powers

TEMPLATES: Final = Path(__file__).with_name("templates")


def lead(sentences: Iterable[str]) -> str:
    """The answers at the head of a page, each question in bold."""
    parts: list[dict[str, Any]] = []
    for sentence in map(raised_powers, sentences):
        question, mark, answer = sentence.partition("? ")
        parts.append({"question": f"{question}?", "text": answer} if mark else {"question": "", "text": sentence})
    return render(TEMPLATES / "lead.html", {"sentences": parts})


def titled(parts: Iterable[tuple[str, str]]) -> str:
    """Pieces of HTML one below the other, each under its plain-text title (or none where that is empty)."""
    return render(TEMPLATES / "titled.html", {"parts": [(title, as_html(body)) for title, body in parts]})


def bullets(texts: Iterable[str]) -> str:
    """Plain texts as a list."""
    return render(TEMPLATES / "list.html", {"items": list(map(raised_powers, texts))})


def head(script: str) -> str:
    """What a page of runs has in its head: its own style, and the script of all figures."""
    return render(TEMPLATES / "head.html", {"script": as_html(script)})
