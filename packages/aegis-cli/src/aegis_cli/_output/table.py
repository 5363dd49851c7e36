"""Lays out tables of few columns that fit a terminal. Pure; escapes what it shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from aegis_cli._output.escape import cut, plain, width_of

GAP = 2
_MIN_FOLDED = 10
_COLORS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        text: One line; a long one is broken after blanks if the column folds.
        style: `red`, `yellow`, `green`, `dim`, `bold` or nothing.
    """

    text: str
    style: str = ""


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: Its title.
        right: Whether its cells are at the right.
        folds: Whether long cells may be broken into lines.
        optional: Columns with the greatest number are left out first where the terminal is too
            narrow for whole words; those with 0 never are.
    """

    title: str
    right: bool = False
    folds: bool = False
    optional: int = 0


class Table(NamedTuple):
    """Columns and rows; each row has a cell for each column."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


def styled(text: str, style: str, *, colors: bool) -> str:
    """The text with a style, if the output takes any."""
    code = _COLORS.get(style)
    return f"\x1b[{code}m{text}\x1b[0m" if colors and code and text.strip() else text


def lay_out(table: Table, width: int, *, colors: bool = False) -> tuple[list[str], list[str]]:
    """Returns the lines of a table, and the titles of the columns that had no room."""
    columns = list(table.columns)
    shown = list(range(len(columns)))
    cells = [[_lines(cell) for cell in row] for row in table.rows]
    sizes = [_sizes(column, [row[i] for row in cells]) for i, column in enumerate(columns)]
    while True:
        natural = [sizes[i].natural for i in shown]
        widths = _fit(natural, [sizes[i].unbroken for i in shown], width)
        droppable = [i for i in shown if columns[i].optional]
        if widths is not None or not droppable:
            break
        shown.remove(max(droppable, key=lambda i: (columns[i].optional, i)))
    if widths is None:
        least = [sizes[i].least for i in shown]
        widths = _fit(natural, least, width) or least
    kept = [columns[i] for i in shown]
    titles = [(c.title, "bold") for c in kept]
    lines = [_line(titles, kept, widths, width, colors=colors)]
    for row, texts in zip(table.rows, cells, strict=True):
        folded = [
            _fold(texts[i], widths[at] if columns[i].folds else None) for at, i in enumerate(shown)
        ]
        for number in range(max(map(len, folded), default=0)):
            parts = [
                (lines_[number] if number < len(lines_) else "", row[i].style)
                for i, lines_ in zip(shown, folded, strict=True)
            ]
            lines.append(_line(parts, kept, widths, width, colors=colors))
    return lines, [columns[i].title for i in range(len(columns)) if i not in shown]


def _lines(cell: Cell) -> list[str]:
    return [plain(cell.text)]


class _Sizes(NamedTuple):
    """Widths of a column: of its longest cell, with its words unbroken, and the least one."""

    natural: int
    unbroken: int
    least: int


def _sizes(column: Column, cells: Iterable[Sequence[str]]) -> _Sizes:
    lines = [column.title, *(line for cell in cells for line in cell)]
    natural = max(map(width_of, lines))
    if not column.folds:
        return _Sizes(natural, natural, natural)
    least = min(natural, max(_MIN_FOLDED, width_of(column.title)))
    words = max(width_of(word) for line in lines for word in line.split(" "))
    return _Sizes(natural, max(least, words), least)


def _fit(natural: Sequence[int], least: Sequence[int], width: int) -> list[int] | None:
    """Narrows the widest columns until all fit; None if their least widths are too much."""
    widths = list(natural)
    over = sum(widths) + GAP * (len(widths) - 1) - width
    while over > 0:
        wide = [i for i in range(len(widths)) if widths[i] > least[i]]
        if not wide:
            return None
        widest = max(wide, key=lambda i: widths[i])
        others = [widths[i] for i in wide if i != widest]
        floor = max(least[widest], *others, 0)
        step = min(over, max(1, widths[widest] - floor))
        widths[widest] -= step
        over -= step
    return widths


def _fold(lines: Sequence[str], width: int | None) -> list[str]:
    if width is None:
        return list(lines)
    return [part for line in lines for part in wrap(line, width)]


def wrap(line: str, width: int, hang: int = 0) -> list[str]:
    """Breaks a line after blanks where it can, and within words where it must.

    Its parts begin as far to the right as the line, and all but the first by `hang` columns more.
    """
    if width_of(line) <= width:
        return [line]
    text = line.lstrip(" ")
    margin = " " * min(len(line) - len(text), width // 2)
    found: list[str] = []
    current = ""
    for word in text.split(" "):
        candidate = f"{current} {word}" if current else word
        if width_of(margin + candidate) <= width:
            current = candidate
            continue
        if current:
            found.append(margin + current.rstrip(" "))
            margin = margin if found[1:] else margin + " " * min(hang, width // 4)
        while width_of(margin + word) > width:
            head = _head(word, width - len(margin))
            found.append(margin + head)
            margin = margin if found[1:] else margin + " " * min(hang, width // 4)
            word = word[len(head) :]
        current = word
    return [*found, margin + current]


def _head(word: str, width: int) -> str:
    """The beginning of a word that is too long: up to a mark in it, if one is near the end."""
    head = cut(word, width + 1)[:-1] or word[0]
    end = max(map(head.rfind, "-./:#@")) + 1
    return head[:end] if end > len(head) // 2 else head


def _line(
    parts: Sequence[tuple[str, str]],
    columns: Sequence[Column],
    widths: Sequence[int],
    room: int,
    *,
    colors: bool,
) -> str:
    """The cells of a line side by side, cut where the terminal ends."""
    shown, used = [], 0
    for (text, style), column, width in zip(parts, columns, widths, strict=True):
        if used >= room:
            break
        text = cut(text, room - used)
        padding = " " * min(max(0, width - width_of(text)), room - used - width_of(text))
        painted = styled(text, style, colors=colors)
        shown.append(padding + painted if column.right else painted + padding)
        used += width_of(text) + len(padding) + GAP
    return (" " * GAP).join(shown).rstrip()
