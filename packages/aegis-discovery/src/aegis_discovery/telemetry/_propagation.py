"""The context of a trace in the metadata of calls, through OpenTelemetry's global propagator.

What a caller sends is not trusted. A value that is too long or malformed is ignored as if it were
not there, before a propagator sees it: those of OpenTelemetry log what they cannot read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from opentelemetry import propagate
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter

Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]

TRACEPARENT = "traceparent"

MAX_VALUE = 512
"""Characters of a value, such as `traceparent` and `tracestate`, unless `MAX_VALUES` says more."""

MAX_VALUES = {"baggage": 4096}

MAX_ENTRIES = {"tracestate": 32, "baggage": 64}
"""Entries of a value that is a list: the limits of W3C."""

MAX_METADATA = 7 * 1024
"""Bytes of the metadata of a call, with what is added here. From 8 KiB on, with its own headers,
gRPC begins to refuse calls; above this limit only `traceparent` is added."""

_OVERHEAD = 32
"""Bytes that HTTP/2 counts for each pair."""

_ENTRIES = {
    "tracestate": re.compile(
        r"(?:[a-z][_0-9a-z*/-]{0,255}|[a-z0-9][_0-9a-z*/-]{0,240}@[a-z][_0-9a-z*/-]{0,13})"
        r"=[ -+\--<>-~]{0,255}[!-+\--<>-~]"
    ),
    "baggage": re.compile(
        r"[!#-'*+.0-9A-Z^-z|~-]+=[!#-+\--:<-\[\]-~]*(?:;[A-Za-z0-9_.-]+(?:=[A-Za-z0-9_.-]+)?)*"
    ),
}

_COMMA = re.compile(r"[ \t]*,[ \t]*")

_PRINTABLE = re.compile(r"[ -~]+")


def context_from(metadata: Metadata) -> Context:
    """Returns the context that a caller sent, without anything of this process."""
    found: dict[str, str] = {}
    for key, value in metadata:
        if isinstance(value, str):
            found.setdefault(key, value)
    return propagate.extract(found, Context(), _GETTER)


def with_context(metadata: Metadata, context: Context) -> tuple[tuple[str, str | bytes], ...]:
    """Returns the metadata of a call with a context in it, in place of any that was there."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier, context)
    added = {key.lower(): value for key, value in carrier.items() if _is_sound(key.lower(), value)}
    given = tuple(pair for pair in metadata if pair[0] not in added)
    pairs = (*given, *added.items())
    if sum(len(key) + len(value) + _OVERHEAD for key, value in pairs) > MAX_METADATA:
        added = {key: value for key, value in added.items() if key == TRACEPARENT}
    return (*given, *added.items())


def _is_sound(key: str, value: str) -> bool:
    if len(value) > MAX_VALUES.get(key, MAX_VALUE) or key.endswith("-bin"):
        return False
    pattern = _ENTRIES.get(key)
    if pattern is None:
        return _PRINTABLE.fullmatch(value) is not None
    entries = _COMMA.split(value)
    return len(entries) <= MAX_ENTRIES[key] and all(map(pattern.fullmatch, entries))


class _LowerCase(Getter[Mapping[str, str]]):
    """Reads metadata, whose keys are in lower case whatever a propagator calls them."""

    def get(self, carrier: Mapping[str, str], key: str) -> list[str] | None:
        key = key.lower()
        value = carrier.get(key)
        return None if value is None or not _is_sound(key, value) else [value]

    def keys(self, carrier: Mapping[str, str]) -> list[str]:
        return list(carrier)


_GETTER: Any = _LowerCase()
