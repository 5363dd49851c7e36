"""A mesh at one moment, as commands see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple

from aegis_certs import owner_of, parse_worker_id
from aegis_discovery import NodeInfo

STALE = 5.0
"""Seconds of silence after which a view is stale: a node sends a heartbeat every two seconds."""

Stats = Mapping[str, Any]
"""What a node tells about itself. Any node may leave out anything, or write what it likes."""


class Reply(NamedTuple):
    """What a node answered itself.

    Attributes:
        health: `healthy`, `unhealthy` or `unknown`.
        message: Its health in words.
        error: Why it is not healthy; empty otherwise.
        round_trip: Seconds that one ping took on an open connection.
        clock_ahead: Seconds by which its clock is ahead of ours, to about one second.
    """

    health: str
    message: str
    error: str
    round_trip: float
    clock_ahead: float = 0.0


class CertificateSeen(NamedTuple):
    """A certificate that a node, or the mesh's CA, uses.

    Attributes:
        subject: The name in it.
        issuer: The name of the CA that issued it.
        not_before: Its start.
        not_after: Its end.
    """

    subject: str
    issuer: str
    not_before: datetime
    not_after: datetime

    def style(self, now: datetime) -> str:
        """Renewal is due when less than a third of the life is left."""
        if self.not_after <= now:
            return "red"
        life, left = self.not_after - self.not_before, self.not_after - now
        return "yellow" if left * 3 < life else "green"

    def left(self, now: datetime) -> str:
        """How long it is still valid, in one unit."""
        if self.not_after <= now:
            return "expired"
        return span((self.not_after - now).total_seconds())


class Seen(NamedTuple):
    """One node, as the mesh describes it, and as it answered if it was asked.

    Attributes:
        info: The node in the topology.
        since: When it got its status, or when it joined; None if nobody knows.
        by: The observers whose verdicts caused the status.
        certificate: The certificate that signed its record; None if another node vouches for it.
        reply: Its answer; None if it was not asked or did not answer.
        problem: Why it did not answer.
    """

    info: NodeInfo
    since: datetime | None = None
    by: Sequence[str] = ()
    certificate: CertificateSeen | None = None
    reply: Reply | None = None
    problem: str = ""

    @property
    def id(self) -> str:
        return self.info.id

    @property
    def place(self) -> str:
        """Region and zone; empty if it has none."""
        return "/".join(part for part in (self.info.region, self.info.zone) if part)


class View(NamedTuple):
    """A mesh at one moment.

    Attributes:
        taken_at: When it was read (UTC).
        source: The node whose topology this is.
        version: The version of that topology.
        digest: Its digest: equal at all nodes that hold the same.
        updated_at: When it last changed.
        nodes: The nodes, by id.
        stats: What nodes tell about themselves, by id.
        unanswered: Why nodes that were asked for it told nothing.
        silent_for: Seconds since the source last sent anything.
        authorities: The CAs that are trusted.
        trouble: Why the view could not be read anew; then it is an older one.
    """

    taken_at: datetime
    source: str
    version: int
    digest: str
    updated_at: datetime
    nodes: tuple[Seen, ...]
    stats: Mapping[str, Stats] = MappingProxyType({})
    unanswered: Mapping[str, str] = MappingProxyType({})
    silent_for: float = 0.0
    authorities: Sequence[CertificateSeen] = ()
    trouble: str = ""

    @property
    def own(self) -> Stats:
        """What the source tells about itself."""
        return self.stats.get(self.source, {})

    def get(self, node_id: str) -> Seen | None:
        """Returns a node, or None."""
        return next((node for node in self.nodes if node.id == node_id), None)


class Filter(NamedTuple):
    """Which nodes a command shows; an empty part means all.

    Attributes:
        services: `name` or `name/version`.
        regions: Regions.
        zones: Zones.
        statuses: Statuses, or healths.
    """

    services: Sequence[str] = ()
    regions: Sequence[str] = ()
    zones: Sequence[str] = ()
    statuses: Sequence[str] = ()

    def missing(self, view: View) -> list[str]:
        """What the filter names and no node of the mesh has, a sentence each."""
        provided = {name for node in view.nodes for name in names_of(node)}
        regions = {node.info.region for node in view.nodes}
        zones = {node.info.zone for node in view.nodes}
        return [
            *(f"no node provides {name}" for name in self.services if name not in provided),
            *(f"no node is in region {one!r}" for one in self.regions if one not in regions),
            *(f"no node is in zone {one!r}" for one in self.zones if one not in zones),
        ]

    def __bool__(self) -> bool:
        return bool(self.services or self.regions or self.zones or self.statuses)

    def takes(self, node: Seen) -> bool:
        """Whether a node is shown."""
        info = node.info
        return (
            (not self.services or not names_of(node).isdisjoint(self.services))
            and (not self.regions or info.region in self.regions)
            and (not self.zones or info.zone in self.zones)
            and (not self.statuses or bool({info.status, info.health} & set(self.statuses)))
        )


def names_of(node: Seen) -> set[str]:
    """The services of a node, with and without their versions."""
    services = node.info.services
    return {one.name for one in services} | {"/".join(one.key) for one in services}


FROM_BAD_TO_GOOD = ("failed", "unreachable", "no answer", "unhealthy", "suspected", "unknown")
"""States by how wrong they are; those that are not here are well."""

STYLES = {
    "alive": "green",
    "healthy": "green",
    "suspected": "yellow",
    "unknown": "yellow",
    "unreachable": "yellow",
    "failed": "red",
    "unhealthy": "red",
    "no answer": "red",
}


def severity(*states: str) -> int:
    """Orders nodes by what is wrong: smaller is worse."""
    order = {state: rank for rank, state in enumerate(FROM_BAD_TO_GOOD)}
    return min((order.get(state, len(order)) for state in states), default=len(order))


def is_wrong(node: Seen) -> bool:
    """Whether a node is not as it should be."""
    state = str(node.info.status)
    return bool(state != "alive" or node.info.health == "unhealthy" or node.problem)


def by_what_is_wrong(node: Seen) -> tuple[int, str, int]:
    """The order of nodes in tables: what is wrong first, then by id."""
    states = [str(node.info.status), str(node.info.health) if is_wrong(node) else ""]
    if node.problem:
        states.append("no answer")
    identity, number = parse_worker_id(node.id)
    return severity(*states), identity, -1 if number is None else number


def owner(node: Seen) -> str:
    """The identity of a node or worker."""
    return owner_of(node.id)


def age(since: datetime | None, now: datetime) -> str:
    """How long ago, in one unit; empty if nobody knows."""
    if since is None:
        return ""
    return span((now - since) / timedelta(seconds=1))


def span(seconds: float) -> str:
    """A length of time in one unit, such as `3m`."""
    seconds = max(0, seconds)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def parse_span(text: str) -> float:
    """The seconds of a text such as `90s`, `15m`, `2h` or `14d`.

    Raises:
        ValueError: It is none.
    """
    sizes = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = (text[:-1], text[-1:]) if text[-1:] in sizes else (text, "s")
    seconds = float(number) * sizes[unit]
    if not 0 <= seconds < 1e9:
        raise ValueError(text)
    return seconds


def text_of(value: object, limit: int = 200) -> str:
    """A text that a node wrote into its statistics; of anything else its form in Python."""
    return str(value)[:limit] if value is not None else ""


def number_of(value: object) -> float:
    """A number that a node wrote into its statistics; 0 for anything else."""
    ok = isinstance(value, int | float) and not isinstance(value, bool) and value == value
    return float(value) if ok and abs(value) < 1e18 else 0.0  # type: ignore[arg-type]  # `ok` says so


def items_of(value: object, limit: int = 5000) -> list[Mapping[str, Any]]:
    """The objects of a list that a node wrote into its statistics; anything else is left out."""
    if not isinstance(value, list | tuple):
        return []
    return [one for one in value[:limit] if isinstance(one, dict)]


def time_of(value: object) -> datetime | None:
    """A time that a node wrote into its statistics; None for anything else."""
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return found if found.tzinfo else None
