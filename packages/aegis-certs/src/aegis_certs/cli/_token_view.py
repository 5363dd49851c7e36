"""The table of tokens."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import datetime

import click

from aegis_certs._ca.enrolment.tokens import TokenInfo, TokenState
from aegis_certs.cli._output import UNLIMITED, printable, short, styled, width_of
from aegis_certs.cli._table import lay_out
from aegis_certs.cli._wrapping import wrap_name

_STYLES = {
    TokenState.UNUSED: "yellow",
    TokenState.USED: "green",
    TokenState.EXPIRED: "dim",
    TokenState.CANCELLED: "red",
}
_OTHERS = 51  # columns: all but those of the id and of what is granted, with the gaps
_MIN_ID, _MAX_ID, _MIN_GRANT = 10, 24, 12  # columns


def show_tokens(tokens: Sequence[TokenInfo]) -> None:
    """Prints tokens as a table, the newest last.

    If the width is unlimited, each token is one line, and each column has one value.
    """
    width = width_of(sys.stdout)
    titles: tuple[str, ...]
    rows: list[tuple[str, ...]]
    if width == UNLIMITED:
        titles = ("ID", "SERIAL", "STATE", "UNTIL", "USAGES", "LIFE", "HOSTS", "USED", "KEY", "AT")
        rows = [_line(token) for token in tokens]
    else:
        longest = max(len(token.id) for token in tokens)
        id_width = min(max(longest, len("ID")), max(_MIN_ID, min(_MAX_ID, (width - _OTHERS) // 2)))
        grant_width = max(width - _OTHERS - id_width, _MIN_GRANT)
        titles = ("ID", "SERIAL", "STATE", "UNTIL", "GRANTS", "USED")
        rows = [_cells(token, id_width, grant_width) for token in tokens]
    click.echo("\n".join(lay_out([styled(title, "bold") for title in titles], rows)))


def _cells(token: TokenInfo, id_width: int, grant_width: int) -> tuple[str, ...]:
    granted = [_usages(token), _life(token.days), *token.hosts]
    return (
        wrap_name(printable(token.id), id_width),
        short(token.serial),
        styled(token.state, _STYLES[token.state]),
        _time(token.not_after, "\n"),
        "\n".join(wrap_name(printable(one), grant_width) for one in granted),
        "\n".join(_use(token)),
    )


def _use(token: TokenInfo) -> Iterator[str]:
    if token.used_at is not None:
        yield _time(token.used_at, "\n")
        yield f"key {short(token.used_by)}"
        yield f"at {printable(token.issuer)}"


def _line(token: TokenInfo) -> tuple[str, ...]:
    return (
        token.id,
        short(token.serial),
        str(token.state),
        _time(token.not_after, " "),
        _usages(token),
        _life(token.days),
        ",".join(token.hosts),
        "" if token.used_at is None else _time(token.used_at, " "),
        short(token.used_by),
        printable(token.issuer),
    )


def _life(days: float) -> str:
    number, unit = (days, "day") if days >= 1 else (days * 24, "hour")
    return f"{number:.4g} {unit}{'s' * (number != 1)}"


def _usages(token: TokenInfo) -> str:
    return "server,client" if token.server else "client"


def _time(at: datetime, between: str) -> str:
    return f"{at:%Y-%m-%d}{between}{at:%H:%M} UTC"
