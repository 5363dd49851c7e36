from __future__ import annotations

import click
from aegis_certs.cli._table import lay_out


def test_columns_are_as_wide_as_their_widest_line() -> None:
    lines = list(lay_out(("ID", "STATE"), [("orders-1", "valid"), ("b\nand more", "expired")]))

    assert lines == [
        "ID        STATE",
        "orders-1  valid",
        "b         expired",
        "and more",
    ]


def test_styles_take_no_width() -> None:
    title, row = lay_out(("A", "B"), [(click.style("red", fg="red"), "x")])

    assert title == "A    B"
    assert click.unstyle(row) == "red  x"


def test_wide_and_combining_characters_take_their_width() -> None:
    lines = list(lay_out(("ID", "B"), [("日本", "x"), ("e\N{COMBINING ACUTE ACCENT}", "y")]))

    assert lines == ["ID    B", "日本  x", "e\N{COMBINING ACUTE ACCENT}     y"]
