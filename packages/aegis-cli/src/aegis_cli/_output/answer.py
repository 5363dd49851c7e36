"""What a command answers: lines and a table for people, JSON for machines, and a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from aegis_cli._output.escape import plain
from aegis_cli._output.table import Cell, Table, lay_out, styled, wrap

_HANG = 4


class Answer(NamedTuple):
    """One answer in all its forms.

    Attributes:
        json: For machines.
        head: Lines above the table: counts and problems.
        table: The table, if there is one.
        notes: Lines below it.
        wrong: How many things are wrong; `--check` makes an exit code of it.
        text: Lines in place of a table, which are shown as they are; they are escaped already.
    """

    json: object
    head: Sequence[Cell] = ()
    table: Table | None = None
    notes: Sequence[Cell] = ()
    wrong: int = 0
    text: Sequence[str] = ()

    def lines(self, width: int, *, colors: bool) -> list[str]:
        """The answer for people, in lines that fit."""
        found = _lines(self.head, width, colors=colors)
        left_out: list[str] = []
        if self.table is not None and self.table.rows:
            if found:
                found.append("")
            rows, left_out = lay_out(self.table, width, colors=colors)
            found += rows
        if self.text:
            found += ["", *self.text] if found else list(self.text)
        notes = list(self.notes)
        if left_out:
            notes.append(Cell(f"A wider terminal also shows: {', '.join(left_out)}.", "dim"))
        if notes:
            found += ["", *_lines(notes, width, colors=colors)]
        return found


def _lines(cells: Sequence[Cell], width: int, *, colors: bool) -> list[str]:
    return [
        styled(line, cell.style, colors=colors)
        for cell in cells
        for line in wrap(plain(cell.text), width, _HANG)
    ]
