"""What connecting needs before anything is sent; shared by the blocking and the async face."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aegis_certs import TLSConfig, load_or_generate_tls

from aegis_discovery._transport import SeedPeer, parse_seed
from aegis_discovery.errors import ConnectError

DEFAULT_MESH = "aegis"


def client_identity(node_id: str | None, cert_dir: str | Path, tls: TLSConfig | None) -> TLSConfig:
    """Returns the identity given, or loads or issues the one named."""
    if tls is not None:
        return tls
    if node_id is None:
        raise ConnectError("who connects? give node_id=... (and cert_dir=...) or tls=...")
    return load_or_generate_tls(node_id, cert_dir)


def parse_seeds(seed_peers: Sequence[str]) -> tuple[SeedPeer, ...]:
    """Parses seed peers; at least one is needed."""
    if not seed_peers:
        raise ConnectError("no seed peer was given; name one node of the mesh as host:port")
    return tuple(parse_seed(peer) for peer in seed_peers)
