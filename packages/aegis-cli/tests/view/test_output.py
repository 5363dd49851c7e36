from __future__ import annotations

import re

import pytest
from aegis_cli._output.answer import Answer
from aegis_cli._output.escape import cut, plain, width_of
from aegis_cli._output.table import Cell, Column, Table, lay_out

EVIL = (
    "\x1b[2J\x1b]0;title\x07",
    "a\r\nb\tc\x00",
    "<script>alert(1)</script>",
    '"]; click x "javascript:alert(1)"',
    "\u202egnp.exe",
    "\u2028\u200b\x9b31m",
)


@pytest.mark.parametrize("text", EVIL)
def test_no_cell_can_write_control_characters(text: str) -> None:
    table = Table((Column("A", folds=True), Column("B")), [[Cell(text, "red"), Cell(text)]])
    answer = Answer(None, [Cell(text)], table, [Cell(text)])
    for width in (20, 80):
        for line in answer.lines(width, colors=False):
            assert line.isprintable()
    colored = "\n".join(answer.lines(80, colors=True))
    for code in ("\x1b[31m", "\x1b[1m", "\x1b[0m", "\n"):
        colored = colored.replace(code, "")
    assert colored.isprintable()


def test_wide_and_combining_characters_are_measured() -> None:
    assert (width_of("日本"), width_of("e\u0301")) == (4, 1)
    assert cut("日本語", 5) == "日本…"
    assert plain("日本") == "日本"
    lines, _ = lay_out(Table((Column("A"), Column("B")), [[Cell("日本"), Cell("x")]]), 80)
    assert lines == ["A     B", "日本  x"]


def test_words_are_broken_only_where_they_must() -> None:
    column = Column("SERVICES", folds=True)
    lines, left_out = lay_out(
        Table((column, Column("X")), [[Cell("orders/v1, payments/v1, " + "z" * 30), Cell("1")]]), 24
    )
    assert all(width_of(line) <= 24 for line in lines)
    assert lines[1].startswith("orders/v1,")
    assert "".join(line.removesuffix("1").strip() for line in lines[1:]).count("z") == 30
    assert left_out == []


def test_optional_columns_are_left_out_before_a_name_is_broken() -> None:
    columns = (
        Column("ID", folds=True),
        Column("SERVICES", folds=True),
        Column("STATUS"),
        Column("WHERE", optional=1),
        Column("CERT", optional=2),
    )
    name, served = "orders-7d9f8c5b4-x2x9z.shop.internal", "orders/v1, payments/v1, returns/v1"
    rows = [[Cell(text) for text in (name, served, "alive 12m", "eu-west/a", "89d")]]
    for width, left_out in ((120, []), (80, []), (72, ["CERT"]), (63, ["WHERE", "CERT"])):
        lines, missing = lay_out(Table(columns, rows), width)
        assert missing == left_out
        assert lines[1].startswith(name)
        assert all(width_of(line) <= width for line in lines)
    lines, missing = lay_out(Table(columns, rows), 50)
    assert (missing, "".join(line[:20].strip() for line in lines[1:])) == (["WHERE", "CERT"], name)


def test_a_sentence_that_is_too_long_goes_on_below_and_loses_nothing() -> None:
    node_id = "payments-and-refunds-service-of-eu-west-1"
    text = f"  orders-1 is failed for 6m, by the verdicts of {node_id}, orders-2"
    for width in (30, 40, 60):
        lines = lines_of(text, width)
        assert all(width_of(line) <= width for line in lines)
        assert lines[0].startswith("  orders-1 is failed")
        assert all(line.startswith("      ") for line in lines[1:])
        assert "".join("".join(lines).split()) == "".join(text.split())
    assert "      payments-and-refunds-" in lines_of(text, 28)
    assert lines_of(text, 200) == [text]


def lines_of(text: str, width: int) -> list[str]:
    return Answer(None, [Cell(text)]).lines(width, colors=False)


@pytest.mark.parametrize("colors", [False, True])
def test_no_line_is_longer_than_the_smallest_terminal(colors: bool) -> None:
    table = Table(
        (Column("ID", folds=True), Column("STATUS"), Column("CALLS", right=True)),
        [[Cell("orders-1 (2 workers)"), Cell("unreachable 12m", "yellow"), Cell("1234567", "red")]],
    )
    for width in (12, 20, 30, 40):
        for line in lay_out(table, width, colors=colors)[0]:
            assert width_of(re.sub("\x1b\\[[0-9;]*m", "", line)) <= width
