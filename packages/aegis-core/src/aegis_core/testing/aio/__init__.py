"""The helpers of `aegis_core.testing` for asyncio, under the same names."""

from aegis_core.testing._authority import identity
from aegis_core.testing._context import AbortedError
from aegis_core.testing.aio._context import FakeContext
from aegis_core.testing.aio._mesh import LocalMesh

__all__ = ["AbortedError", "FakeContext", "LocalMesh", "identity"]
