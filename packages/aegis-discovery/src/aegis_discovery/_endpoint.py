"""One provider at one address, as a pool knows it."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from aegis_discovery._ejection import Standing
from aegis_discovery._pool_stats import EndpointState
from aegis_discovery._seed import split_address
from aegis_discovery.errors import InvalidAddressError

ChannelT = TypeVar("ChannelT")


class Endpoint(Standing, Generic[ChannelT]):
    """One provider at one address: its channel, and how it stands with us.

    Attributes:
        channel: Set by the shell when the first call goes there.
        callables: The channel's methods, by the stub callables that use them.
        is_dialable: Whether its address is one; what a node publishes need not be.
    """

    __slots__ = ("__weakref__", "address", "callables", "channel", "is_dialable", "node_id")

    def __init__(self, node_id: str, address: str) -> None:
        super().__init__()
        self.node_id = node_id
        self.address = address
        self.is_dialable = _is_dialable(address)
        self.channel: ChannelT | None = None
        self.callables: dict[object, Any] = {}

    def __repr__(self) -> str:
        state = f" {self.state} for {self.pause:g}s" if self.out else ""
        return f"<Endpoint {self.node_id} at {self.address}{state}>"

    @property
    def state(self) -> EndpointState:
        """Whether calls go there, as far as they tell themselves."""
        if not self.out:
            return EndpointState.READY
        return EndpointState.EJECTED if self.ejected else EndpointState.UNREACHED


def _is_dialable(address: str) -> bool:
    try:
        split_address(address)
    except InvalidAddressError:
        return False
    return True
