"""Messages of a method from JSON, and to it (the JSON format of protobuf)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from aegis_cli.errors import InvalidMessageError

_DECODER = json.JSONDecoder()
_TOO_DEEP = "no JSON that can be read: too many values are within each other"
_SHOWN = 40


def read_objects(lines: Iterable[str]) -> Iterator[Any]:
    """Splits text into JSON values, each as soon as its last line was read.

    Raises:
        InvalidMessageError: At the end of the text, if the rest of it is no JSON.
    """
    pending, count = "", 0
    for line in lines:
        pending = (pending + line).lstrip()
        while pending:
            try:
                value, end = _DECODER.raw_decode(pending)
            except ValueError:
                break  # it may go on in the next line
            except RecursionError:
                raise InvalidMessageError(count + 1, _TOO_DEEP) from None
            count += 1
            yield value
            pending = pending[end:].lstrip()
    if pending:
        try:
            _DECODER.raw_decode(pending)
        except ValueError as error:
            raise InvalidMessageError(count + 1, f"no JSON: {error}") from None


def to_message(number: int, value: Any, kind: Descriptor, descriptors: Any) -> Message:
    """Makes a message of a JSON object.

    Args:
        number: The place of the message among the requests, from 1.
        value: What the JSON parsed to.
        kind: The message's type.
        descriptors: The pool with the types that an `Any` in it names.

    Raises:
        InvalidMessageError: If it does not fit the type.
    """
    message = GetMessageClass(kind)()
    names = ", ".join(field.name for field in kind.fields) or "none"
    try:
        if not isinstance(value, dict) and kind.file.package != "google.protobuf":
            shown = json.dumps(value)[:_SHOWN]
            problem = f"{shown}, and no JSON object such as {{}}; its fields: {names}"
            raise InvalidMessageError(number, problem)
        # Several of protobuf's own types, such as Timestamp, are no JSON objects.
        json_format.Parse(json.dumps(value), message, descriptor_pool=descriptors)
    except RecursionError:
        raise InvalidMessageError(number, _TOO_DEEP) from None
    except json_format.ParseError as error:
        reason = str(error).partition(" Available Fields")[0].rstrip(" .\n")
        problem = f"not a {kind.full_name}: {reason}; its fields: {names}"
        raise InvalidMessageError(number, problem) from None
    return message


def to_json(message: Message, descriptors: Any) -> Any:
    """Returns the JSON object of a message, with the names that JSON gives its fields."""
    try:
        return json_format.MessageToDict(message, descriptor_pool=descriptors)
    except TypeError as error:  # an `Any` of a type that the node does not describe
        return {"error": f"this answer cannot be shown as JSON: {error}"}
