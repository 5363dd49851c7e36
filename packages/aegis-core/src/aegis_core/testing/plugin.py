"""A plugin of pytest: a mesh, and fake contexts, as fixtures.

It is on wherever `aegis-core` is installed, and imports nothing until a test asks for a fixture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from aegis_certs import TLSConfig

    from aegis_core.testing import FakeContext, LocalMesh

__all__ = ["aegis_context", "aegis_identity", "aegis_mesh"]


@pytest.fixture
def aegis_mesh() -> Iterator[LocalMesh]:
    """A mesh of blocking nodes, empty at first: `aegis_mesh.start("orders-1", ...)`.

    For asyncio, use `async with aegis_core.testing.aio.LocalMesh() as mesh` in the test or in a
    fixture of yours, since each plugin for asyncio has its own kind of fixtures.
    """
    from aegis_core.testing import LocalMesh

    with LocalMesh() as mesh:
        yield mesh


@pytest.fixture
def aegis_identity() -> Callable[[str], TLSConfig]:
    """Makes identities of the CA of the tests: `aegis_identity("orders-1")`."""
    from aegis_core.testing import identity

    return identity


@pytest.fixture
def aegis_context() -> Callable[..., FakeContext]:
    """Makes contexts for handlers that a test calls itself: `aegis_context("billing-1")`."""
    from aegis_core.testing import FakeContext

    def make(caller: str | None = "test-client", **options: Any) -> FakeContext:
        return FakeContext(caller, **options)

    return make
