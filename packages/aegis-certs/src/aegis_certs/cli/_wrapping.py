"""Wraps text for a terminal between words. Pure."""

from __future__ import annotations

import re

_COMMAND = re.compile(r"`[^`]*`")
_HARD = "\u00a0"  # a blank at which no line ends
_PART = re.compile(r"[^./:]*[./:]+|[^./:]+")
_SMALL_INDENT = 4  # for text that is too long for its column


def no_wrap(command: str) -> str:
    """A command that `wrap_text` keeps on one line, so that a user can paste it."""
    return command.replace(" ", _HARD)


def wrap_text(text: str, width: int, indent: int = 0) -> str:
    """Wraps a text between words; its first line starts at the indent.

    It breaks neither words nor commands: those in backquotes, and those from `no_wrap`.
    """
    import textwrap  # not needed for --help

    lines = []
    for line in _COMMAND.sub(lambda found: no_wrap(found[0]), text).splitlines():
        if indent > _SMALL_INDENT and len(line.split(" ", 1)[0]) > width - indent:
            lines.append("")
            indent = _SMALL_INDENT
        lines += textwrap.wrap(
            line, max(width - indent, 1), break_long_words=False, break_on_hyphens=False
        )
    return ("\n" + " " * indent).join(lines).replace(_HARD, " ")


def wrap_name(name: str, width: int) -> str:
    """Wraps a name to lines of this width, between two of its parts if possible."""
    if len(name) <= width:
        return name
    lines = [""]
    for part in _PART.findall(name):
        if len(lines[-1]) + len(part) > width and lines[-1]:
            lines.append("")
        lines[-1] += part
        while len(line := lines[-1]) > width:
            end = max(line.rfind(mark, 0, width) for mark in "- ") + 1 or width
            lines[-1:] = [line[:end], line[end:]]
    return "\n".join(lines)
