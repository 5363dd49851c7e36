"""`mesh events` and `mesh why`: what happened, and who says what about a node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from aegis_cli._output.answer import Answer
from aegis_cli._output.table import Cell, Column, Table
from aegis_cli._view.model import STYLES, Stats, age, items_of, number_of, text_of, time_of

_STYLES = {
    **STYLES,
    "recovered": "green",
    "joined": "green",
    "left": "yellow",
    "expired": "yellow",
    "revoked": "red",
    "forgotten": "yellow",
}
_VERDICTS = (
    Column("WHO", folds=True),
    Column("SAYS"),
    Column("COUNTS"),
    Column("SINCE", right=True),
    Column("SIGNED WITH", folds=True, optional=1),
)


def new_events(
    stats: Stats, *, after: int = 0, since: datetime | None = None
) -> list[Mapping[str, Any]]:
    """The events that a node keeps, or those after a number or a time; the oldest one first."""
    found = []
    for event in items_of(stats.get("events")):
        at = time_of(event.get("at"))
        if number_of(event.get("number")) > after and (since is None or (at and at >= since)):
            found.append(event)
    return found


def last_number(events: Sequence[Mapping[str, Any]], before: int = 0) -> int:
    """The number of the last event."""
    return max([before, *(int(number_of(one.get("number"))) for one in events)])


def event_lines(events: Iterable[Mapping[str, Any]]) -> list[Cell]:
    """Events for people, one line each."""
    found = []
    for event in events:
        at, kind = time_of(event.get("at")), text_of(event.get("kind"))
        words = [text_of(event.get("what"))]
        by = event.get("by")
        if isinstance(by, list) and by:
            words.append(f"by {', '.join(map(text_of, by[:8]))}")
        when = f"{at:%Y-%m-%d %H:%M:%S}" if at else "?" * 19
        node = text_of(event.get("node_id")) or "-"
        line = f"{when}  {kind:<9}  {node}  {'; '.join(filter(None, words))}"
        found.append(Cell(line.rstrip(), _STYLES.get(kind, "")))
    return found


def why(told: Stats, trip: float | str | None, now: datetime) -> Answer:
    """Why a node has its status, as one node of the mesh explains it.

    Args:
        told: The explanation.
        trip: Seconds of a ping from here, or why there was no answer; None if it was not asked.
        now: The present time.
    """
    node_id, asked = text_of(told.get("node_id")), text_of(told.get("asked"))
    reachable = {"round_trip_ms": None, "problem": None}
    if isinstance(trip, float):
        reachable["round_trip_ms"] = round(trip * 1000, 3)  # type: ignore[assignment]  # a number
    elif trip is not None:
        reachable["problem"] = trip  # type: ignore[assignment]  # a text
    facts = {**told, "from_here": reachable}
    if not told.get("known"):
        head = [Cell(f"{asked} knows no node {node_id}", "red")]
        return Answer(facts, head, notes=_history(told)[1:], wrong=1)
    status = text_of(told.get("status"))
    verdicts = items_of(told.get("verdicts"))
    return Answer(
        facts,
        [*_head(told, node_id, asked, status, now), *_from_here(trip)],
        Table(_VERDICTS, [_verdict(one, now) for one in verdicts]),
        [*_ring(told), *_history(told)],
        wrong=int(status != "alive"),
    )


def _head(told: Stats, node_id: str, asked: str, status: str, now: datetime) -> list[Cell]:
    if told.get("has_left"):
        return [Cell(f"{node_id} has left the mesh, says {asked}", "yellow")]
    since = time_of(told.get("since"))
    when = f" for {age(since, now)}, since {since:%Y-%m-%d %H:%M:%S} UTC" if since else ""
    lines = [Cell(f"{node_id} is {status}{when}, says {asked}", STYLES.get(status, ""))]
    counted = [one for one in items_of(told.get("verdicts")) if one.get("counts")]
    failing = [one for one in counted if one.get("opinion") == "failed"]
    observers = told.get("observers")
    total = len(observers) if isinstance(observers, list) else 0
    by = told.get("by")
    if isinstance(by, list) and by:
        lines.append(Cell(f"by the verdicts of {', '.join(map(text_of, by[:8]))}"))
    lines.append(
        Cell(
            f"{len(failing)} of {total} observers say failed now; more than half of those that are "
            f"well decide"
        )
    )
    if voucher := text_of(told.get("vouched_by")):
        lines.append(Cell(f"it signs nothing itself: {voucher} vouches for it", "yellow"))
    signed = told.get("signed")
    if isinstance(signed, dict):
        at = time_of(signed.get("at"))
        until = time_of(told.get("lease_until"))
        lines.append(
            Cell(
                f"its record is {age(at, now) or '?'} old"
                + (f", valid until {until:%Y-%m-%d %H:%M} UTC" if until else "")
                + (f", signed below {text_of(signed.get('issuer'))}" if "issuer" in signed else ""),
                "dim",
            )
        )
    return lines


def _from_here(trip: float | str | None) -> list[Cell]:
    if trip is None:
        return []
    if isinstance(trip, float):
        return [Cell(f"it answers here within {trip * 1000:.1f} ms", "green")]
    return [Cell(f"it does not answer here: {trip}", "red")]


def _verdict(one: Mapping[str, Any], now: datetime) -> list[Cell]:
    opinion = text_of(one.get("opinion"))
    style = {"failed": "red", "suspect": "yellow"}.get(opinion, "")
    serial, issuer = text_of(one.get("serial")), text_of(one.get("issuer"))
    return [
        Cell(text_of(one.get("accuser"))),
        Cell(opinion + (" (held)" if one.get("held") else ""), style),
        Cell("yes" if one.get("counts") else "no", "" if one.get("counts") else "dim"),
        Cell(age(time_of(one.get("at")), now) or "-"),
        Cell(f"{serial[:12]}, of {issuer}" if serial else "-"),
    ]


def _ring(told: Stats) -> list[Cell]:
    found = []
    for title, name in (("watched by", "observers"), ("watches", "watches")):
        ids = told.get(name)
        shown = ", ".join(map(text_of, ids[:16])) if isinstance(ids, list) else ""
        found.append(Cell(f"{title:<10}  {shown or 'nobody'}"))
    return found


def _history(told: Stats) -> list[Cell]:
    events = items_of(told.get("events"))[-10:]
    return [Cell(""), Cell("last changes", "bold"), *event_lines(events)] if events else []


def since_time(now: datetime, seconds: float | None) -> datetime | None:
    """The time so many seconds ago."""
    return None if seconds is None else now - timedelta(seconds=seconds)
