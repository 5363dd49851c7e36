"""What a command shows of services and messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor

from aegis_cli._rpc.proto_text import field_facts, service_lines, type_lines, types_of
from aegis_cli._rpc.reflection import Reflection
from aegis_cli.errors import NotDescribedError


@dataclass(frozen=True, slots=True)
class Description:
    """Services and messages.

    Attributes:
        lines: In the notation of a `.proto` file.
        facts: For machines.
    """

    lines: tuple[str, ...]
    facts: Mapping[str, object]


def describe_services(reflection: Reflection) -> Description:
    """Describes all services of a node but those that every node has."""
    return _describe([reflection.find_service(name) for name in reflection.list_services()])


def describe_symbol(reflection: Reflection, name: str) -> Description:
    """Describes a service or a message by its full name.

    Raises:
        NotDescribedError: If the node knows neither.
    """
    try:
        message = reflection.find_message(name)
    except NotDescribedError:
        return _describe([reflection.find_service(name)])
    return Description(tuple(type_lines(message)), {"messages": [_type_facts(message)]})


def _describe(services: Iterable[ServiceDescriptor]) -> Description:
    lines: list[str] = []
    facts: list[dict[str, object]] = []
    kinds: dict[str, Any] = {}
    for service in services:
        lines += [*([""] if lines else []), *service_lines(service)]
        facts.append(_service_facts(service))
        kinds |= {kind.full_name: kind for kind in types_of(service)}
    for kind in kinds.values():
        lines += ["", *type_lines(kind)]
    return Description(
        tuple(lines),
        {"services": facts, "messages": [_type_facts(kind) for kind in kinds.values()]},
    )


def _service_facts(service: ServiceDescriptor) -> dict[str, object]:
    return {
        "name": service.full_name,
        "methods": [
            {
                "path": f"{service.full_name}/{method.name}",
                "request": method.input_type.full_name,
                "answer": method.output_type.full_name,
                "streams_requests": method.client_streaming,
                "streams_answers": method.server_streaming,
            }
            for method in service.methods
        ],
    }


def _type_facts(kind: Any) -> dict[str, object]:
    if hasattr(kind, "fields"):
        return {"name": kind.full_name, "fields": [field_facts(field) for field in kind.fields]}
    return {"name": kind.full_name, "values": {value.name: value.number for value in kind.values}}
