"""Wrapped text and names keep all their characters."""

from __future__ import annotations

import pytest
from aegis_certs.cli._wrapping import no_wrap, wrap_name, wrap_text
from hypothesis import given
from hypothesis import strategies as st

words = st.lists(st.text("ab`-/.", min_size=1, max_size=30), max_size=20)
widths = st.integers(1, 100)


@given(words, widths, st.integers(0, 30))
def test_text_is_wrapped_between_words_and_keeps_all_of_them(
    parts: list[str], width: int, indent: int
) -> None:
    lines = wrap_text(" ".join(parts), width, indent).splitlines()
    assert " ".join(lines).split() == parts
    assert all(line == line.rstrip() for line in lines)
    for line in lines[1:]:
        assert len(line) <= width or len(line.split("`")) > 1 or " " not in line.strip()


def test_commands_stay_on_one_line() -> None:
    text = f"first run `aegis-certs issue n1 --dir x`, then {no_wrap('aegis-certs list --dir x')}"
    assert wrap_text(text, 40).splitlines() == [
        "first run",
        "`aegis-certs issue n1 --dir x`, then",
        "aegis-certs list --dir x",
    ]


def test_a_word_too_long_for_its_column_gets_its_own_line() -> None:
    assert wrap_text("a" * 64, 80, 16) == "a" * 64
    assert wrap_text("a" * 64, 79, 16) == "\n    " + "a" * 64


@given(st.text("abc-./: ", max_size=80), widths)
def test_names_are_wrapped_to_fit_and_keep_all_characters(name: str, width: int) -> None:
    lines = wrap_name(name, width).split("\n")
    assert "".join(lines) == name
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("spiffe://acme.example/node/n-1", ["spiffe://", "acme.example/", "node/n-1"]),
        ("a-rather-long-node-id.acme", ["a-rather-", "long-node-id.", "acme"]),
        ("10.0.0.7", ["10.0.0.7"]),
        ("Aegis CA 4b4bc1b7 Root", ["Aegis CA ", "4b4bc1b7 Root"]),
    ],
)
def test_names_are_wrapped_between_their_parts(name: str, lines: list[str]) -> None:
    assert wrap_name(name, 13).split("\n") == lines
