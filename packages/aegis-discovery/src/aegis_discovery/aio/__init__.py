"""Clients of a mesh, for asyncio."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aegis_discovery._calls.aio.pool import ServiceClientPool
    from aegis_discovery._client.aio_mesh import Mesh, connect
    from aegis_discovery._client.aio_renew import renew
    from aegis_discovery.enrolment._aio_enroll import enroll

__all__ = ["Mesh", "ServiceClientPool", "connect", "enroll", "renew"]

_HOMES = {
    "Mesh": "aegis_discovery._client.aio_mesh",
    "ServiceClientPool": "aegis_discovery._calls.aio.pool",
    "connect": "aegis_discovery._client.aio_mesh",
    "enroll": "aegis_discovery.enrolment._aio_enroll",
    "renew": "aegis_discovery._client.aio_renew",
}


def __getattr__(name: str) -> Any:
    # The modules beside this one are also used where nothing connects.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
