"""The event loops that the library itself creates."""

from __future__ import annotations

import asyncio


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Creates an event loop, uvloop's where that is installed."""
    try:
        import uvloop  # heavy, and an extra
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
