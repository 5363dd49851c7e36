"""Runs an identity rotator in an event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from aegis_discovery._runtime.sleeping import sleep_until_tick
from aegis_discovery.identity._rotator import (
    POLL_INTERVAL,
    IdentityEvent,
    IdentityEventKind,
    IdentityRotator,
)

_log = logging.getLogger("aegis.identity")


async def run_rotator(rotator: IdentityRotator, on_event: Callable[[IdentityEvent], None]) -> None:
    """Polls the rotator in a thread until cancelled, and passes its events to the event loop.

    If `on_event` raises an error, the same event is passed again after the next poll, unless a
    newer event of its kind has succeeded: no change of an identity is applied halfway.
    """
    failed: dict[IdentityEventKind, IdentityEvent] = {}
    while True:
        events = list(failed.values())
        try:
            events += await asyncio.to_thread(rotator.poll)
        except RuntimeError:  # no thread can be started at the moment
            _log.exception("the files of %s could not be polled", rotator.tls.node_id)
        for found in events:
            # An event may be old by now: the event loop has applied what was published meanwhile.
            event = found._replace(tls=rotator.tls)
            try:
                on_event(event)
            except Exception:  # noqa: BLE001 - the process continues after any error
                line = "%s could not handle the event %r; it tries again"
                _log.exception(line, rotator.tls.node_id, str(event.kind))
                failed[event.kind] = event
            else:
                failed.pop(event.kind, None)
        await sleep_until_tick(POLL_INTERVAL)
