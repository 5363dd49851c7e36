"""What the contexts of sync and async handlers have in common, without a call behind it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import grpc
from cryptography.hazmat.primitives.serialization import Encoding

from aegis_core.testing._authority import identity

Metadata = Iterable[tuple[str, str | bytes]]


class AbortedError(Exception):
    """A handler has ended its call with `context.abort`.

    Attributes:
        code: The status code.
        details: What the handler said.
    """

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self.code = code
        self.details = details
        super().__init__(f"the handler aborted the call with {code.name}: {details}")


class ContextBase:
    """The state of a call that no server has made.

    Args:
        caller: The node id of the caller, whose certificate is made for the test; None for a
            caller without a certificate, which no node lets in.
        metadata: The metadata that the caller sent.
        timeout: Seconds until the deadline of the call; None for none.
    """

    def __init__(
        self,
        caller: str | None = "test-client",
        *,
        metadata: Metadata = (),
        timeout: float | None = None,
    ) -> None:
        self._caller = caller
        self._metadata = tuple(metadata)
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._callbacks: list[Callable[..., Any]] = []
        self.initial_metadata: tuple[tuple[str, str | bytes], ...] = ()
        self._trailing: tuple[tuple[str, str | bytes], ...] = ()
        self.is_cancelled = False

    def auth_context(self) -> Mapping[str, Any]:
        """What gRPC says of a connection with TLS 1.3 and the caller's certificate."""
        found: dict[str, Any] = {
            "transport_security_type": [b"ssl"],
            "ssl_tls_version": [b"TLSv1.3"],
        }
        if self._caller is not None:
            tls = identity(self._caller)
            found["x509_common_name"] = [tls.node_id.encode()]
            found["x509_pem_cert"] = [tls.certificate.public_bytes(Encoding.PEM)]
        return found

    def peer(self) -> str:
        return "ipv4:127.0.0.1:50000"

    def peer_identity_key(self) -> str | None:
        return None if self._caller is None else "x509_common_name"

    def peer_identities(self) -> Iterable[bytes] | None:
        return None if self._caller is None else [identity(self._caller).node_id.encode()]

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self._metadata

    def time_remaining(self) -> Any:
        """Seconds until the deadline; None if the call has none."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def set_code(self, code: grpc.StatusCode) -> None:
        self._code = code

    def set_details(self, details: str) -> None:
        self._details = details

    def code(self) -> grpc.StatusCode | None:
        """The status code that the handler has set; None if it set none."""
        return self._code

    def details(self) -> str:
        return self._details

    def set_trailing_metadata(self, trailing_metadata: Metadata) -> None:
        self._trailing = tuple(trailing_metadata)

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self._trailing

    def set_compression(self, compression: grpc.Compression) -> None:
        del compression

    def disable_next_message_compression(self) -> None:
        pass

    def _abort(
        self, code: grpc.StatusCode, details: str, trailing_metadata: Metadata
    ) -> AbortedError:
        if code is grpc.StatusCode.OK:
            raise ValueError("abort needs a status code other than OK")
        self._code, self._details = code, details
        if trailing_metadata:
            self._trailing = tuple(trailing_metadata)
        return AbortedError(code, details)

    def _cancel(self) -> bool:
        """Ends the call as a caller does that gives up; returns whether it was open."""
        if self.is_cancelled:
            return False
        self.is_cancelled = True
        return True
