"""Makes text that peers wrote harmless in each kind of output. Pure.

Node ids have a syntax, but names, services, regions and messages may contain anything printable or
not, and nobody may trust a peer to have checked an id.
"""

from __future__ import annotations

import unicodedata

MAX_LABEL = 80
"""Characters of a label in a picture."""

_XML = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"}


def plain(text: str) -> str:
    """One line without characters that a terminal obeys or that change the order of the text."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " for c in text)


def width_of(text: str) -> int:
    """The columns that a terminal uses for a line."""
    if text.isascii():
        return len(text)
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 1 + (unicodedata.east_asian_width(character) in "WF")


def cut(text: str, width: int) -> str:
    """The beginning of a line that fits into some columns, with an ellipsis if it is cut."""
    if width_of(text) <= width:
        return text
    used, kept = 0, []
    for character in text:
        used += _columns(character)
        if used > width - 1:
            break
        kept.append(character)
    return "".join(kept) + "…"


def label(text: str) -> str:
    """A label of a picture: one line of bounded length."""
    return cut(plain(text), MAX_LABEL)


def for_xml(text: str) -> str:
    """A label in SVG, as text or in an attribute."""
    return "".join(_XML.get(c, c) for c in label(text))


def for_dot(text: str) -> str:
    """A label in DOT, with its quotes. Graphviz obeys backslashes there, so they are doubled."""
    return '"{}"'.format(label(text).replace("\\", "\\\\").replace('"', '\\"'))


def for_mermaid(text: str) -> str:
    """A label in Mermaid, with its quotes. All but a few characters are numeric entities there."""
    shown = "".join(c if c.isalnum() or c in " .:/_-" else f"#{ord(c)};" for c in label(text))
    return f'"{shown}"'
