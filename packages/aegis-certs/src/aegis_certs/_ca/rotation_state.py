"""Rotating the CA of a directory: where it stands, and what each step changes.

What lies in the directory says where the rotation stands; there is no other record of it.

    step       the change that counts         left to tidy up after a crash
    prepare    `ca_next` is committed         its certificates join the trust bundle
    activate   `ca` is committed, with the    `ca_next` goes; or `ca_old`, where the
               new key, after `ca_old`        crash was before the commit of `ca`
    retire     the trust bundle is written    `ca_old` goes
               without the old CA
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from aegis_certs._ca.inventory import IssuedCertificate
from aegis_certs._store.directory import Store
from aegis_certs._x509.names import CA_NAME, NEXT_CA_NAME, OLD_CA_NAME

_GENERATION = re.compile(r"(?P<name>.*) G(?P<number>\d{1,6})")


class RotationPhase(StrEnum):
    """Where the rotation of a CA stands."""

    NONE = "none"
    PREPARED = "prepared"
    ACTIVATED = "activated"


@dataclass(frozen=True, slots=True)
class RotationState:
    """Where the rotation of a CA stands.

    Attributes:
        phase: The last step that was done.
        issuing: The common name of the CA that issues now.
        next: That of the CA that will issue; None where none is prepared.
        old: That of the CA that is being replaced, and whose leaves are listed; the issuing one
            until a rotation is activated.
        bundle_fingerprint: The fingerprint of the trust bundle of this directory.
        trusting: The fingerprints of the bundles that trust the new CA, where one is at work.
        old_leaves: The newest certificate of each node that is from the old CA, and neither
            revoked nor past its end. One that lives an hour or less is not among them: it was
            made for one command.
    """

    phase: RotationPhase
    issuing: str
    next: str | None
    old: str
    bundle_fingerprint: str
    trusting: frozenset[str]
    old_leaves: tuple[IssuedCertificate, ...]

    def trusts(self, bundle_fingerprint: str) -> bool:
        """Tells whether a node with a bundle of this fingerprint trusts the new CA."""
        return bundle_fingerprint in self.trusting


def phase_of(store: Store) -> RotationPhase:
    """Where the rotation of a directory stands, whatever a crash left to tidy up.

    Raises:
        CertsError: The files of a CA cannot be read.
    """
    current = store.chain(CA_NAME) or ()
    new, old = store.chain(NEXT_CA_NAME), store.chain(OLD_CA_NAME)
    if old and current and old[0] != current[0] and old[0] in current:
        return RotationPhase.ACTIVATED
    if new and current and new[0] != current[0]:
        return RotationPhase.PREPARED
    return RotationPhase.NONE


def settle(store: Store) -> None:
    """Finishes, or takes back, the step that a crash cut short; only under the lock.

    Raises:
        CertsError: The files of a CA cannot be read or written.
    """
    current = store.chain(CA_NAME)
    if current is None:
        return
    if new := store.chain(NEXT_CA_NAME):
        if new[0] == current[0]:
            store.remove(NEXT_CA_NAME)
        elif missing := [ca for ca in new if ca not in current]:
            store.replace_chain(CA_NAME, (*current, *missing))
    old = store.chain(OLD_CA_NAME)
    if old and (old[0] == current[0] or old[0] not in current):
        store.remove(OLD_CA_NAME)


def successor_name(name: str) -> str:
    """The name of the CA after this one: `Acme CA`, `Acme CA G2`, `Acme CA G3`."""
    known = _GENERATION.fullmatch(name)
    base, number = (known["name"], int(known["number"])) if known else (name, 1)
    suffix = f" G{number + 1}"
    return base[: 64 - len(suffix)] + suffix
