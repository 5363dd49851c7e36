"""What the page needs of HTTP/1.1: requests without a body, one on each connection. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus
from http.client import HTTPException, parse_headers
from io import BytesIO
from urllib.parse import parse_qs, urlsplit

MAX_HEAD = 8 * 1024
"""Bytes of the head of a request."""

_HEADERS = {
    # Scripts and styles of our own only, and no text of a peer can become markup.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Connection": "close",
}


class BadRequestError(Exception):
    """A request cannot be read."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request.

    Attributes:
        method: The method.
        path: The path, without the query.
        query: The first value of each field of the query.
        headers: The header fields.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Message

    def all(self, name: str) -> list[str]:
        """The values of all header fields of a name."""
        return list(self.headers.get_all(name) or ())

    def cookies(self, name: str) -> list[str]:
        """The values of all cookies of a name; other programs on loopback may set some too."""
        pairs = (pair.partition("=") for line in self.all("Cookie") for pair in line.split(";"))
        return [value.strip() for key, _, value in pairs if key.strip() == name]


@dataclass(frozen=True, slots=True)
class Response:
    """An answer.

    Attributes:
        status: The status.
        body: The body.
        kind: Its media type.
        headers: Header fields besides those that every answer has.
    """

    status: HTTPStatus
    body: bytes = b""
    kind: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)

    def __bytes__(self) -> bytes:
        fields = {
            "Content-Type": self.kind,
            "Content-Length": str(len(self.body)),
            **_HEADERS,
            **self.headers,
        }
        lines = [f"HTTP/1.1 {self.status.value} {self.status.phrase}"]
        lines += (f"{name}: {value}" for name, value in fields.items())
        return "\r\n".join([*lines, "", ""]).encode() + self.body


def refused(status: HTTPStatus, sentence: str) -> Response:
    """An answer in one sentence."""
    return Response(status, f"{sentence}\n".encode())


def parse(head: bytes) -> Request:
    """Parses the head of a request.

    Raises:
        BadRequestError: It is none.
    """
    line, _, rest = head.partition(b"\r\n")
    try:
        method, target, version = line.decode("ascii").split(" ")
        headers = parse_headers(BytesIO(rest))
        parts = urlsplit(target)
        query = parse_qs(parts.query, max_num_fields=8)
    except (ValueError, HTTPException) as error:
        raise BadRequestError from error
    if not version.startswith("HTTP/1.") or not target.startswith("/") or headers.defects:
        raise BadRequestError
    return Request(method, parts.path, {name: found[0] for name, found in query.items()}, headers)
