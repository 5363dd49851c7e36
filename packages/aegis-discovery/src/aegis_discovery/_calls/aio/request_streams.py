"""Async calls with a stream of requests that wait for a provider before they start."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import grpc
import grpc.aio

from aegis_discovery._calls.aio.call import RetriedCall, RetriedStreamCall

# The stubs of grpc make these classes generic; at run time not all of them are.
# mypy: disable-error-code="type-arg"


class _WaitingRequests(RetriedCall):
    """A call with a stream of requests, which cannot be repeated: it waits for its endpoint first.

    Its endpoint answers a probe before the call starts.
    """

    _streams = True
    _once = True
    _may_retry = False

    async def write(self, request: Any) -> None:
        while True:
            call = self._call
            try:
                await call.write(request)
            except grpc.RpcError:
                if self._settle(call):
                    raise
            else:
                return

    async def done_writing(self) -> None:
        while True:
            call = self._call
            await call.done_writing()
            if call is self._call:
                return


class WaitingRequestsCall(_WaitingRequests, grpc.aio.StreamUnaryCall):
    """A call with a stream of requests and one response."""

    def __await__(self) -> Generator[Any, None, Any]:
        while True:
            call = self._call
            try:
                return (yield from call.__await__())
            except grpc.RpcError:
                if self._settle(call):
                    raise


class WaitingChatCall(_WaitingRequests, RetriedStreamCall, grpc.aio.StreamStreamCall):
    """A call with streams both ways."""
