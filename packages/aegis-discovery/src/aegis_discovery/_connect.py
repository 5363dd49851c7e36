"""What connecting needs before anything is sent; shared by the blocking and the async face."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aegis_certs import IdentitySource, TLSConfig

from aegis_discovery._transport import SeedPeer, parse_seed
from aegis_discovery.errors import ConnectError

DEFAULT_MESH = "aegis"


def client_source(
    node_id: str | None, cert_dir: str | Path, tls: TLSConfig | None
) -> IdentitySource:
    """Tells where the identity comes from: as given, or a directory, where it is kept fresh."""
    if tls is not None:
        return IdentitySource.fixed(tls)
    if node_id is None:
        raise ConnectError("who connects? give node_id=... (and cert_dir=...) or tls=...")
    return IdentitySource.directory(node_id, cert_dir)


def parse_seeds(seed_peers: Sequence[str]) -> tuple[SeedPeer, ...]:
    """Parses seed peers; at least one is needed."""
    if not seed_peers:
        raise ConnectError("no seed peer was given; name one node of the mesh as host:port")
    return tuple(parse_seed(peer) for peer in seed_peers)
