"""The rotation of the CA of a directory: its phase, and what each step changes.

The files of the directory are the only record of the phase.

    step       the change that counts         left to do after a crash
    prepare    `ca_next` is committed         add its certificates to the trust bundle
    activate   `ca` is committed, with the    remove `ca_next`; or `ca_old`, if the
               new key, after `ca_old`        crash was before the commit of `ca`
    retire     the trust bundle is written    remove `ca_old`
               without the old CA
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from aegis_certs._ca.issued import IssuedCertificate
from aegis_certs._store.directory import Store
from aegis_certs._x509.names import CA_NAME, NEXT_CA_NAME, OLD_CA_NAME

_GENERATION = re.compile(r"(?P<name>.*) G(?P<number>\d{1,6})")


class RotationPhase(StrEnum):
    """The last step of a rotation that was done."""

    NONE = "none"
    PREPARED = "prepared"
    ACTIVATED = "activated"


@dataclass(frozen=True, slots=True)
class RotationState:
    """The state of the rotation of a CA.

    Attributes:
        phase: The last step that was done.
        issuing: The common name of the CA that issues now.
        next: The common name of the prepared CA; None if none is prepared.
        old: The common name of the CA that is being replaced, and whose leaves are listed; the
            issuing CA until a rotation is activated.
        bundle_fingerprint: The fingerprint of the trust bundle of this directory.
        trusting: The fingerprints of the bundles that trust the new CA; empty without a rotation.
        old_leaves: The newest certificate of each node if the old CA issued it, and it is neither
            revoked nor expired. Certificates with a life of an hour or less are omitted: they
            serve a single command.
        old_used_until: The latest end of all certificates and tokens of the old CA that are neither
            revoked nor expired, replaced and short-lived ones too (UTC); None if there is none.
        old_key_id: The key identifier of the old CA, in hexadecimal.
        is_root: The old CA is its own root, so its successor is made without another directory.
        issued_at: When the old CA was made (UTC).
        ends_at: When the old CA ends (UTC).
        prepared_at: When the new CA was made (UTC); None without a rotation.
        not_read: What may be missing in `old_leaves` and `old_used_until`, and
            why, in sentences.
    """

    phase: RotationPhase
    issuing: str
    next: str | None
    old: str
    bundle_fingerprint: str
    trusting: frozenset[str]
    old_leaves: tuple[IssuedCertificate, ...]
    old_used_until: datetime | None
    old_key_id: str
    is_root: bool
    issued_at: datetime
    ends_at: datetime
    prepared_at: datetime | None
    not_read: tuple[str, ...] = ()

    def trusts(self, bundle_fingerprint: str) -> bool:
        """Whether a node whose bundle has this fingerprint trusts the new CA."""
        return bundle_fingerprint in self.trusting


def phase_of(store: Store) -> RotationPhase:
    """The phase of the rotation of a directory, also if a crash interrupted a step."""
    current = store.chain(CA_NAME) or ()
    new, old = store.chain(NEXT_CA_NAME), store.chain(OLD_CA_NAME)
    if old and current and old[0] != current[0] and old[0] in current:
        return RotationPhase.ACTIVATED
    if new and current and new[0] != current[0]:
        return RotationPhase.PREPARED
    return RotationPhase.NONE


def recover_rotation(store: Store) -> None:
    """Finishes or undoes the step that a crash interrupted; the caller holds the lock."""
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
    """The name of the next CA: `Acme CA` becomes `Acme CA G2`, which becomes `Acme CA G3`."""
    known = _GENERATION.fullmatch(name)
    base, number = (known["name"], int(known["number"])) if known else (name, 1)
    suffix = f" G{number + 1}"
    return base[: 64 - len(suffix)] + suffix
