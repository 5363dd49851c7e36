"""Shows the events of a mesh, and goes on with new ones."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime

import grpc
from aegis_certs import CertsError
from aegis_certs.cli import show_json, width_of
from aegis_discovery.errors import DiscoveryError

from aegis_cli._mesh.connecting import LastingReader
from aegis_cli._mesh.live import INTERVAL, Place, until_stopped
from aegis_cli._output.answer import Answer
from aegis_cli._output.show import end_if_nobody_reads, takes_colors
from aegis_cli._output.table import Cell
from aegis_cli._view.events import event_lines, last_number, new_events, since_time
from aegis_cli._view.model import Stats, text_of
from aegis_cli.errors import CliError


async def show_events(place: Place, *, since: float | None, follow: bool, json: bool) -> None:
    """Shows the events that a node keeps, and with `follow` further ones until it is stopped.

    If that node is gone, the events of another one follow; it saw the same changes at nearly the
    same times.
    """
    reader = LastingReader(place)
    stream = _Stream(since_time(datetime.now(UTC), since), json=json)
    with until_stopped():
        try:
            stream.show(await _read(reader))
            if not follow:
                stream.end()
            while follow:
                await asyncio.sleep(INTERVAL)
                end_if_nobody_reads()
                try:
                    stream.show(await _read(reader))
                except (CertsError, CliError, DiscoveryError, grpc.RpcError) as error:
                    stream.note(f"no events now: {error}")
        finally:
            await reader.close()


async def _read(reader: LastingReader) -> tuple[str, Stats]:
    view = await (await reader.open()).read(own=("node_id", "started_at", "events"))
    if not view.own:
        raise CliError(f"{view.source} does not tell what happened; is it of an older version?")
    return view.source, view.own


class _Stream:
    """Shows each event once."""

    def __init__(self, since: datetime | None, *, json: bool) -> None:
        self._since = since
        self._json = json
        self._last = 0
        self._source = ("", "")
        self._noted = ""
        self._has_shown = False

    def show(self, told: tuple[str, Stats]) -> None:
        name, stats = told
        source = name, text_of(stats.get("started_at"))
        if source != self._source:
            if self._source[0]:
                # Numbers are each node's own, so its time decides what is new.
                self.note(f"{self._source[0]} is gone; {name} goes on")
                self._since = datetime.now(UTC)
            self._source, self._last = source, 0
        events = new_events(stats, after=self._last, since=self._since)
        self._last = last_number(new_events(stats), self._last)
        self._noted = ""
        self._has_shown |= bool(events)
        if self._json:
            for event in events:
                show_json(event, indent=None)
        elif events:
            _print(Answer(None, event_lines(events)))
        sys.stdout.flush()

    def end(self) -> None:
        """Says so if there was nothing to show: an empty answer looks like none."""
        if not self._json and not self._has_shown:
            since = f" since {self._since:%Y-%m-%d %H:%M:%S} UTC" if self._since else ""
            self.note(f"{self._source[0]} saw nothing change{since}")

    def note(self, text: str) -> None:
        if text != self._noted:
            self._noted = text
            _print(Answer(None, [Cell(text, "yellow")]), error=True)


def _print(answer: Answer, *, error: bool = False) -> None:
    stream = sys.stderr if error else sys.stdout
    colors = takes_colors() and stream.isatty()
    print(*answer.lines(width_of(stream), colors=colors), sep="\n", file=stream, flush=True)
