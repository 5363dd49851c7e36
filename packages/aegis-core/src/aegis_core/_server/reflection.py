"""Server reflection, under the names of both its versions.

What it needs loads slowly and takes memory, and few nodes are ever asked: it is imported when the
first caller asks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from functools import cached_property
from typing import Any

import grpc

_V1 = "grpc.reflection.v1.ServerReflection"

SERVICES = (_V1, "grpc.reflection.v1alpha.ServerReflection")
"""The services that `add_reflection` adds."""


def add_reflection(services: Iterable[str], server: Any, *, is_async: bool) -> None:
    """Adds server reflection that lists these services.

    The messages of both versions are the same, but grpcio-reflection serves `v1alpha` only.
    """
    reflection = _Reflection(services, is_async=is_async)
    handler = grpc.stream_stream_rpc_method_handler(
        reflection.answer_async if is_async else reflection.answer,
        reflection.parse,
        reflection.serialize,
    )
    for name in SERVICES:
        server.add_registered_method_handlers(name, {"ServerReflectionInfo": handler})


class _Reflection:
    """The servicer of grpcio-reflection, made when it is first asked."""

    def __init__(self, services: Iterable[str], *, is_async: bool) -> None:
        self._services = tuple(services)
        self._is_async = is_async

    @cached_property
    def _servicer(self) -> Any:
        from grpc_reflection.v1alpha import reflection

        module: Any = reflection.aio if self._is_async else reflection
        return module.ReflectionServicer(self._services, pool=_Descriptors())

    async def answer_async(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        async for response in self._servicer.ServerReflectionInfo(requests, context):
            yield response

    def answer(self, requests: Any, context: Any) -> Iterator[Any]:
        yield from self._servicer.ServerReflectionInfo(requests, context)

    @staticmethod
    def parse(request: bytes) -> Any:
        from grpc_reflection.v1alpha import reflection_pb2

        return reflection_pb2.ServerReflectionRequest.FromString(request)

    @staticmethod
    def serialize(response: Any) -> bytes:
        data: bytes = response.SerializeToString()
        return data


class _Descriptors:
    """The default pool and, apart from it, the file of `v1`.

    In the default pool, that file would conflict with a library that has generated code for it.
    """

    def __init__(self) -> None:
        from google.protobuf import descriptor_pb2, descriptor_pool, text_format
        from grpc_reflection.v1alpha import reflection_pb2

        alpha = descriptor_pb2.FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(alpha)
        text = text_format.MessageToString(alpha).replace("v1alpha", "v1")
        self._file = text_format.Parse(text, descriptor_pb2.FileDescriptorProto())
        self._v1 = descriptor_pool.DescriptorPool()
        self._v1.Add(self._file)
        self._default = descriptor_pool.Default()

    def FindFileByName(self, name: str) -> Any:  # noqa: N802 - the pool's name
        pool = self._v1 if name == self._file.name else self._default
        return pool.FindFileByName(name)

    def FindFileContainingSymbol(self, symbol: str) -> Any:  # noqa: N802 - the pool's name
        pool = self._v1 if symbol.startswith(f"{self._file.package}.") else self._default
        return pool.FindFileContainingSymbol(symbol)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._default, name)
