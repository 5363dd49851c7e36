"""Runs an identity rotator beside an event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from aegis_discovery.identity._rotator import (
    LOOK,
    IdentityEvent,
    IdentityEventKind,
    IdentityRotator,
)

_log = logging.getLogger("aegis.identity")


async def run_rotator(rotator: IdentityRotator, on_event: Callable[[IdentityEvent], None]) -> None:
    """Steps the rotator for ever, on a thread, and passes its events on in the loop.

    An event that `on_event` fails on is passed on again at the next look, unless a newer one of
    its kind was taken meanwhile: an identity is never lost halfway.
    """
    failed: dict[IdentityEventKind, IdentityEvent] = {}
    while True:
        events = list(failed.values())
        try:
            events += await asyncio.to_thread(rotator.poll)
        except RuntimeError:  # there is no thread to be had now
            _log.exception("no look at the files of %s", rotator.tls.node_id)
        for event in events:
            try:
                on_event(event)
            except Exception:  # noqa: BLE001 - whatever it is, the process goes on
                _log.exception("%s failed on %r; once more", rotator.tls.node_id, str(event.kind))
                failed[event.kind] = event
            else:
                failed.pop(event.kind, None)
        await asyncio.sleep(LOOK)
