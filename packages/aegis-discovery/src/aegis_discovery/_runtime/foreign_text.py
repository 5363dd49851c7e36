"""What others wrote, as a part of a sentence of ours."""

from __future__ import annotations

LONGEST = 300
"""Characters that are kept of a text."""


def printable(text: str) -> str:
    """Returns the beginning of a text on one line, without control characters.

    Else a peer could forge lines of the log, or fill it, by the details of an error.
    """
    kept = text[:LONGEST]
    if not kept.isprintable():
        kept = "".join(c if c.isprintable() else " " for c in kept)
    return kept if len(text) <= LONGEST else f"{kept}…"
