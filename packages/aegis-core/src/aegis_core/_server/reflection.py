"""Server reflection, under the names of both its versions.

What it needs loads slowly, so it is imported where a server is made.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc

_V1 = "grpc.reflection.v1.ServerReflection"

SERVICES = (_V1, "grpc.reflection.v1alpha.ServerReflection")
"""The services that `add_reflection` adds."""


def add_reflection(services: Iterable[str], server: Any, *, is_async: bool) -> None:
    """Adds server reflection that lists these services.

    The messages of both versions are the same, but grpcio-reflection serves `v1alpha` only.
    """
    from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

    module: Any = reflection.aio if is_async else reflection
    servicer = module.ReflectionServicer(services, pool=_Descriptors())
    # Generated code has no annotations.
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_registered_method_handlers(_V1, {"ServerReflectionInfo": handler})


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
