"""The feeds between simulated nodes: who reads one, and what is on its way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aegis_discovery.feed import FeedReader, FeedWriter
from aegis_discovery.transport import Backoff

if TYPE_CHECKING:
    from aegis_core._simulation._process import Process


@dataclass(slots=True, eq=False)
class Watch:
    """One peer that a node watches, or tries once."""

    peer: str
    reader: FeedReader
    backoff: Backoff
    is_for_once: bool = False
    stream: Stream | None = None
    stamp: int = 0
    tries: int = 0
    heard_at: float = 0.0
    beat: tuple[bytes, int, int] | None = None


@dataclass(slots=True, eq=False)
class Stream:
    """One feed on its way from a node to its watcher."""

    server: str
    watcher: Process
    watch: Watch
    serving: Process | None = None
    writer: FeedWriter | None = None
    is_over: bool = False
    counts: list[int] = field(default_factory=list)
    beat_at: float = 0.0
    arrives_at: float = 0.0
    stuck: list[bytes | None] | None = None
    stuck_since: float = 0.0
