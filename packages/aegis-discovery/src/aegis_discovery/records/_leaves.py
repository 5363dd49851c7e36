"""The certificates that sign records, once verified."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from aegis_certs import matching_names
from cryptography import x509


class Leaf(NamedTuple):
    """A verified certificate that signs records, with the chain that is passed on.

    It keeps no parsed key, which takes more memory than everything else.

    Attributes:
        hosts: Its DNS names besides the node id.
        not_after: The end of the certificate (Unix seconds).
        fingerprint: SHA-256 of `der`, the certificate.
        intermediates: The CAs between it and the trust bundle (DER). No other certificate of the
            received chain is kept, since all of these are passed on to every node.
    """

    node_id: str
    trust_domain: str | None
    hosts: tuple[str, ...]
    not_after: float
    fingerprint: bytes
    der: bytes
    intermediates: tuple[bytes, ...]

    @property
    def chain(self) -> tuple[bytes, ...]:
        """The certificate, then the intermediates (DER)."""
        return (self.der, *self.intermediates)

    @property
    def certificate(self) -> x509.Certificate:
        """The certificate, parsed on each access."""
        return x509.load_der_x509_certificate(self.der)


class LeafStore:
    """Leaves by fingerprint, and by the further DNS names that they have."""

    def __init__(self) -> None:
        self._leaves: dict[bytes, Leaf] = {}
        self._by_host: dict[str, set[bytes]] = {}

    def __contains__(self, fingerprint: bytes) -> bool:
        return fingerprint in self._leaves

    def __iter__(self) -> Iterator[Leaf]:
        return iter(self._leaves.values())

    def get(self, fingerprint: bytes) -> Leaf | None:
        return self._leaves.get(fingerprint)

    def add(self, leaf: Leaf) -> None:
        self._leaves[leaf.fingerprint] = leaf
        for host in leaf.hosts:
            self._by_host.setdefault(host, set()).add(leaf.fingerprint)

    def keep(self, leaves: Iterable[Leaf]) -> None:
        """Forgets all leaves except these."""
        kept = LeafStore()
        for leaf in leaves:
            kept.add(leaf)
        self._leaves, self._by_host = kept._leaves, kept._by_host  # other threads may read

    def naming(self, node_id: str) -> frozenset[bytes]:
        """Returns the fingerprints of the leaves that TLS accepts for a node, besides its own."""
        by_host = self._by_host
        if not by_host:
            return frozenset()
        return frozenset().union(*(by_host.get(name, ()) for name in matching_names(node_id)))
