"""Handlers that are no coroutines: their threads, and what these may know of the connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class KnownContext:
    """A sync handler's context that remembers the connection, which a thread must not ask for.

    gRPC (seen in 1.85) crashes the process where a thread asks a context for its connection and
    the call has ended meanwhile, such as by a caller that gave up while the call waited for a
    thread. On the loop, in the call's own task, that cannot be.

    Args:
        context: gRPC's own, asked here and now.

    Attributes:
        rpc: The task that serves the call.
    """

    def __init__(self, context: Any) -> None:
        self._context = context
        self._auth: Mapping[str, Any] = context.auth_context()
        self._peer: str = context.peer()
        self._key: str | None = context.peer_identity_key()
        rpc = asyncio.current_task()
        assert rpc is not None  # noqa: S101 - a call is served in a task
        self.rpc = rpc
        self.loop = rpc.get_loop()

    def auth_context(self) -> Mapping[str, Any]:
        """Returns what the transport proved."""
        return self._auth

    def peer(self) -> str:
        """Returns the peer's network address."""
        return self._peer

    def peer_identity_key(self) -> str | None:
        """Returns the name of what identifies the peer."""
        return self._key

    def peer_identities(self) -> Iterable[bytes] | None:
        """Returns what identifies the peer."""
        return None if self._key is None else self._auth.get(self._key)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


class InThread:
    """A handler for a thread, which is to get a context that it may ask anything.

    Args:
        look: Sees the context first, in the call's own task.
        handler: Is called on a thread, with what that returned as its last argument.
    """

    def __init__(
        self,
        look: Callable[[KnownContext], Any],
        handler: Callable[[Any, KnownContext, Any], Any],
    ) -> None:
        self.look = look
        self._handler = handler

    def __call__(self, request: Any, context: KnownContext, seen: Any) -> Any:
        return self._handler(request, context, seen)


class HandlerThreads(ThreadPoolExecutor):
    """Runs handlers that are no coroutines.

    gRPC submits a call's handler in the call's own task. That is the one moment before a thread
    has it at which the connection can be asked for, safely and for free.
    """

    def submit(  # type: ignore[override]  # the arguments are those that gRPC gives
        self, fn: Callable[..., Any], /, *args: Any
    ) -> Future[Any]:
        """Runs a function on a thread."""
        if isinstance(fn, InThread):
            request, context = args
            known = KnownContext(context)
            args = (request, known, fn.look(known))
        return super().submit(fn, *args)
