"""Lines for people, which end between two words. Pure."""

from __future__ import annotations

import re

_COMMAND = re.compile(r"`[^`]*`")
_HARD = "\u00a0"  # a blank where no line ends
_PART = re.compile(r"[^./:]*[./:]+|[^./:]+")
_LEAST = 4  # the indentation of what is too long for its column


def unbroken(command: str) -> str:
    """A command that `flowed` keeps on one line, so that it can be pasted."""
    return command.replace(" ", _HARD)


def flowed(text: str, width: int, indent: int = 0) -> str:
    """A text in lines that end between words, its first line beginning at the indentation.

    Words are never broken, nor are commands: quoted ones, and those that are `unbroken`.
    """
    import textwrap  # not needed for --help

    lines = []
    for line in _COMMAND.sub(lambda found: unbroken(found[0]), text).splitlines():
        if indent > _LEAST and len(line.split(" ", 1)[0]) > width - indent:
            lines.append("")
            indent = _LEAST
        lines += textwrap.wrap(
            line, max(width - indent, 1), break_long_words=False, break_on_hyphens=False
        )
    return ("\n" + " " * indent).join(lines).replace(_HARD, " ")


def broken(name: str, width: int) -> str:
    """A name in lines of this width, which end between two parts of it where that is possible."""
    lines = [""]
    for part in _PART.findall(name):
        if len(lines[-1]) + len(part) > width and lines[-1]:
            lines.append("")
        lines[-1] += part
        while len(line := lines[-1]) > width:
            end = max(line.rfind(mark, 0, width) for mark in "- ") + 1 or width
            lines[-1:] = [line[:end], line[end:]]
    return "\n".join(lines)
