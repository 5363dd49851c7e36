"""Points in time, always in UTC: now, as text for machines, and as text for people."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_or_now(at: datetime | None) -> datetime:
    """The given time in UTC, or now; a time without a zone counts as UTC."""
    if at is None:
        return datetime.now(UTC)
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def format_utc(at: datetime) -> str:
    """A time for people, such as `2027-02-21 22:36:36 UTC`."""
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def isoformat(at: datetime) -> str:
    """A time for machines, such as `2027-02-21T22:36:36Z`."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def parse_isoformat(text: str) -> datetime:
    """Reads what `isoformat` wrote.

    Raises:
        ValueError: The text is not a time, or has no zone.
    """
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return found.astimezone(UTC)
