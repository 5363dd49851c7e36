"""Passes the peer operations of a node on to its `peers`, with types and docstrings kept."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")
ManagerT = TypeVar("ManagerT")
ManagerT_co = TypeVar("ManagerT_co", covariant=True)


class HasPeers(Protocol[ManagerT_co]):
    """A node of either face."""

    @property
    def peers(self) -> ManagerT_co: ...


def through_peers(
    method: Callable[Concatenate[ManagerT, P], R],
) -> Callable[Concatenate[HasPeers[ManagerT], P], R]:
    """Makes a method of a node that calls this method of the node's `peers`."""

    @functools.wraps(method)
    def delegate(self: HasPeers[ManagerT], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return method(self.peers, *args, **kwargs)

    if not inspect.iscoroutinefunction(method):
        return delegate

    @functools.wraps(method)
    async def delegate_async(self: HasPeers[ManagerT], /, *args: P.args, **kwargs: P.kwargs) -> Any:
        return await method(self.peers, *args, **kwargs)

    # Only a coroutine function is documented as one.
    return cast("Callable[Concatenate[HasPeers[ManagerT], P], R]", delegate_async)
