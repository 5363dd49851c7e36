"""What a directory says about its CA, without the CA's key, the lock or a write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from cryptography import x509

from aegis_certs._ca.inventory import Inventory
from aegis_certs._ca.issued import IssuedCertificate, Record
from aegis_certs._ca.known_revocations import known_revocations
from aegis_certs._store.directory import Store
from aegis_certs._x509.identity import identity_of, inherited_hosts
from aegis_certs._x509.revocation_list import RevocationList
from aegis_certs._x509.trust import TrustBundle
from aegis_certs.errors import CertsError


@dataclass(eq=False, repr=False)
class CAView:
    """The CA of a directory, read only.

    Attributes:
        store: The directory.
        at: The current time.
        bundle: The trust bundle.
    """

    store: Store
    at: datetime
    bundle: TrustBundle

    @cached_property
    def inventory(self) -> Inventory:
        """The inventory of issued certificates."""
        return Inventory.load(self.store)

    @cached_property
    def revocations(self) -> RevocationList:
        """The revocations that the directory knows."""
        return known_revocations(self.store, self.bundle, self.at).all

    def is_usable(self, entry: Record) -> bool:
        """Whether a certificate or token is neither expired nor revoked."""
        return self.at <= entry.not_after and not self.revocations.has_serial(entry.serial)

    def leaf_of(self, node_id: str) -> x509.Certificate | None:
        """The leaf of a node in the directory; None if it is missing or unreadable."""
        try:
            chain = self.store.chain(node_id)
        except CertsError:
            return None
        return chain[0] if chain else None

    def unrecorded(self, names: Iterable[str]) -> Sequence[IssuedCertificate]:
        """The leaves of these nodes in the directory that this CA signed in a copy of it."""
        leaves = ((name, leaf) for name in names if (leaf := self.leaf_of(name)))
        return [
            IssuedCertificate.of(
                name,
                leaf,
                hosts=inherited_hosts(leaf),
                from_request=not self.store.has_key(name),
            )
            for name, leaf in leaves
            if self.inventory.get(f"{leaf.serial_number:x}") is None
            and self.bundle.issuer_of(leaf) is not None
            and _names(leaf, name)
        ]


def _names(leaf: x509.Certificate, node_id: str) -> bool:
    try:
        return identity_of(leaf).node_id == node_id
    except CertsError:
        return False
