"""What a node's server reflection says of its services (grpc.reflection.v1alpha)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.descriptor import Descriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha.reflection_pb2 import (
    ServerReflectionRequest,
    ServerReflectionResponse,
)
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from aegis_cli.errors import CallFailedError, NotDescribedError

TIMEOUT = 10.0
"""Seconds for one answer."""

MAX_FILES = 1_000
"""Most files of descriptors that are read from one node."""

MESH_SERVICES = ("aegis.MeshService", "aegis.mesh.v1.", "grpc.health.v1.", "grpc.reflection.")
"""How the names of the services begin that every node has."""

T = TypeVar("T")


class Reflection:
    """The services behind a channel, as its server describes them.

    Each file of descriptors is read once, when a name in it is needed.

    Args:
        channel: A channel to one node.
        node_id: The node, for messages.
    """

    def __init__(self, channel: grpc.Channel, node_id: str) -> None:
        self._files = _Files(channel, node_id)
        self._node_id = node_id
        self.descriptors: Any = DescriptorPool(self._files)

    def list_services(self) -> tuple[str, ...]:
        """The full names of the services, sorted; those that every node has are left out.

        Raises:
            NotDescribedError: If the node answers no reflection.
            CallFailedError: If the node cannot be reached.
        """
        answer = self._files.ask(ServerReflectionRequest(list_services=""))
        names = (service.name for service in answer.list_services_response.service)
        return tuple(sorted(name for name in names if not name.startswith(MESH_SERVICES)))

    def find_service(self, name: str) -> ServiceDescriptor:
        """Finds a service by its full name.

        Raises:
            NotDescribedError: If the node does not know it; the message lists those that it has.
            CallFailedError: If the node cannot be reached.
        """
        found: ServiceDescriptor | None = self._find(name, self.descriptors.FindServiceByName)
        if found is None:
            known = ", ".join(self.list_services()) or "none"
            problem = f"it has no service {name}; its services: {known}"
            raise NotDescribedError(self._node_id, problem)
        return found

    def find_message(self, name: str) -> Descriptor:
        """Finds a message by its full name; raises as `find_service` does."""
        found: Descriptor | None = self._find(name, self.descriptors.FindMessageTypeByName)
        if found is None:
            raise NotDescribedError(self._node_id, f"it has no message {name}")
        return found

    def find_method(self, path: str) -> MethodDescriptor:
        """Finds a method by `package.Service/Method`; raises as `find_service` does."""
        service_name, _, name = path.partition("/")
        methods = self.find_service(service_name).methods_by_name
        if name not in methods:
            known = ", ".join(sorted(methods)) or "none"
            problem = f"its service {service_name} has no method {name}; its methods: {known}"
            raise NotDescribedError(self._node_id, problem)
        return methods[name]

    def _find(self, name: str, find: Callable[[str], T]) -> T | None:
        try:
            return find(name)
        except KeyError:
            return None
        except (TypeError, ValueError, RecursionError) as error:
            raise NotDescribedError(
                self._node_id, f"its description of {name} is not valid: {error}"
            ) from None


class _Files:
    """The database of a descriptor pool: reads files of descriptors from a node."""

    def __init__(self, channel: grpc.Channel, node_id: str) -> None:
        self._stub: Any = ServerReflectionStub(channel)
        self._node_id = node_id
        self._files: dict[str, FileDescriptorProto] = {}

    def FindFileByName(self, name: str) -> FileDescriptorProto:  # noqa: N802 - the pool calls it
        if name not in self._files:
            self._read(ServerReflectionRequest(file_by_filename=name))
        return self._files[name]

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptorProto:  # noqa: N802 - likewise
        return self._read(ServerReflectionRequest(file_containing_symbol=symbol))

    def _read(self, request: ServerReflectionRequest) -> FileDescriptorProto:
        """Keeps the files of an answer, and returns the first, which is the one asked for.

        Raises:
            KeyError: If the node does not have it.
        """
        answer = self.ask(request)
        found = answer.file_descriptor_response.file_descriptor_proto
        if answer.HasField("error_response") or not found:
            raise KeyError(answer.error_response.error_message)
        try:
            files = [FileDescriptorProto.FromString(data) for data in found]
        except DecodeError:
            raise NotDescribedError(self._node_id, "its answer cannot be parsed") from None
        for file in files:
            self._files.setdefault(file.name, file)
        if len(self._files) > MAX_FILES:
            problem = f"it has more than {MAX_FILES} files of descriptors"
            raise NotDescribedError(self._node_id, problem)
        return files[0]

    def ask(self, request: ServerReflectionRequest) -> ServerReflectionResponse:
        """Sends one request.

        Raises:
            NotDescribedError: If the node has no reflection, or its policy forbids it.
            CallFailedError: If the call fails otherwise.
        """
        try:
            answers = self._stub.ServerReflectionInfo(iter([request]), timeout=TIMEOUT)
            answer: ServerReflectionResponse | None = next(answers, None)
        except grpc.RpcError as error:
            code: Any = error.code()
            if code is grpc.StatusCode.UNIMPLEMENTED:
                raise NotDescribedError(self._node_id, "it has no server reflection") from None
            if code is grpc.StatusCode.PERMISSION_DENIED:
                raise NotDescribedError(
                    self._node_id,
                    "its policy does not let this identity read its services; allow "
                    'services = ["grpc.reflection.*"], or name another --identity',
                ) from None
            raise CallFailedError(error) from error
        if answer is None:
            raise NotDescribedError(self._node_id, "its reflection ended without an answer")
        return answer
