"""Services and messages in the notation of a `.proto` file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import (
    Descriptor,
    EnumDescriptor,
    FieldDescriptor,
    MethodDescriptor,
    ServiceDescriptor,
)

_SCALARS = {
    getattr(FieldDescriptor, name): name.removeprefix("TYPE_").lower()
    for name in dir(FieldDescriptor)
    if name.startswith("TYPE_")
}


def service_lines(service: ServiceDescriptor) -> Iterator[str]:
    """The lines of a service: a method a line."""
    yield f"service {service.full_name} {{"
    for method in service.methods:
        yield f"  {method_line(method)}"
    yield "}"


def method_line(method: MethodDescriptor) -> str:
    package = method.containing_service.file.package
    request = _streamed(method.input_type, package, streams=method.client_streaming)
    answer = _streamed(method.output_type, package, streams=method.server_streaming)
    return f"rpc {method.name}({request}) returns ({answer});"


def message_lines(message: Descriptor) -> Iterator[str]:
    """The lines of a message: a field a line, in the order of their numbers."""
    yield f"message {message.full_name} {{"
    for field in sorted(message.fields, key=lambda field: field.number):
        note = _note(field)
        yield f"  {_field_type(field, message.file.package)} {field.name} = {field.number};{note}"
    yield "}"


def enum_lines(enum: EnumDescriptor) -> Iterator[str]:
    """The lines of an enum: a value a line."""
    yield f"enum {enum.full_name} {{"
    for value in enum.values:
        yield f"  {value.name} = {value.number};"
    yield "}"


def types_of(service: ServiceDescriptor) -> list[Descriptor | EnumDescriptor]:
    """The messages and enums that a service's methods use, each once, in the order of use.

    Protobuf's own types, such as Timestamp, are left out.
    """
    found: dict[str, Descriptor | EnumDescriptor] = {}
    pending: list[Any] = []
    for method in service.methods:
        pending += [method.input_type, method.output_type]
    while pending:
        kind = pending.pop(0)
        if kind.full_name in found or kind.full_name.startswith("google.protobuf."):
            continue
        if not (isinstance(kind, Descriptor) or hasattr(kind, "fields")):
            found[kind.full_name] = kind
            continue
        if not kind.GetOptions().map_entry:
            found[kind.full_name] = kind
        for field in kind.fields:
            pending += [used for used in (field.message_type, field.enum_type) if used is not None]
    return list(found.values())


def type_lines(kind: Descriptor | EnumDescriptor) -> Iterator[str]:
    return message_lines(kind) if hasattr(kind, "fields") else enum_lines(kind)  # type: ignore[arg-type]  # upb's classes differ


def field_facts(field: FieldDescriptor) -> dict[str, object]:
    """A field for machines."""
    return {
        "name": field.name,
        "json": field.json_name,
        "number": field.number,
        "type": _field_type(field),
    }


def _streamed(message: Descriptor, package: str, *, streams: bool) -> str:
    return f"{'stream ' * streams}{_named(message, package)}"


def _named(kind: Descriptor | EnumDescriptor, package: str) -> str:
    """The name of a type, which a file of the same package need not qualify."""
    if package and kind.file.package == package:
        return str(kind.full_name).removeprefix(f"{package}.")
    return str(kind.full_name)


def _field_type(field: FieldDescriptor, package: str = "") -> str:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        key, value = (message.fields_by_name[name] for name in ("key", "value"))
        return f"map<{_plain_type(key, package)}, {_plain_type(value, package)}>"
    plain = _plain_type(field, package)
    return f"repeated {plain}" if _is_repeated(field) else plain


def _plain_type(field: FieldDescriptor, package: str) -> str:
    named = field.message_type or field.enum_type
    return _SCALARS[field.type] if named is None else _named(named, package)


def _is_repeated(field: Any) -> bool:
    known = getattr(field, "is_repeated", None)  # older versions of protobuf have `label` only
    return bool(field.label == field.LABEL_REPEATED if known is None else known)


def _note(field: FieldDescriptor) -> str:
    oneof = field.containing_oneof
    if oneof is None or oneof.name.startswith("_"):  # of a field that is `optional`
        return ""
    return f"  // one of {oneof.name}"
