"""What a blocking server knows of a method."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aegis_discovery.signals import PeerEdges

from aegis_core._access.caller import Caller

if TYPE_CHECKING:
    from aegis_discovery.telemetry import HandlerTelemetry


class Method:
    """What the server knows of a method.

    Attributes:
        policy_path: The method that the policy is asked about; None if no policy applies.
        is_stream: Whether its calls may be open for long.
        has_one_request: Whether its caller sends one request.
        accept: Judges its callers.
        edges: Counts its calls, by caller; None for the node's own methods.
        telemetry: Traces its calls; None for none.
    """

    __slots__ = (
        "accept",
        "edges",
        "has_one_request",
        "is_stream",
        "policy_path",
        "telemetry",
    )  # fmt: skip

    def __init__(
        self,
        policy_path: str | None,
        accept: Callable[[Any, str | None, None], Caller],
        edges: PeerEdges | None,
        telemetry: HandlerTelemetry | None,
        *,
        is_stream: bool,
        has_one_request: bool,
    ) -> None:
        self.policy_path = policy_path
        self.is_stream = is_stream
        self.has_one_request = has_one_request
        self.accept = accept
        self.edges = edges
        self.telemetry = telemetry
