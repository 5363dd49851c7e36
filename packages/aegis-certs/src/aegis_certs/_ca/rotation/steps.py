"""The steps of a rotation in a CA session."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

from cryptography import x509

from aegis_certs._ca import audit_log, crl
from aegis_certs._ca.audit_log import Action
from aegis_certs._ca.builder import Issuer
from aegis_certs._ca.create import SIGNER_ID, CASpec, create_ca
from aegis_certs._ca.document_signer import install_next_signer
from aegis_certs._ca.inventory import Inventory
from aegis_certs._ca.issued import IssuedCertificate, IssuedToken
from aegis_certs._ca.rotation.plan import (
    MeshView,
    RotationDecision,
    RotationPlan,
    RotationStep,
)
from aegis_certs._ca.rotation_state import RotationPhase, RotationState, phase_of, successor_name
from aegis_certs._ca.session import CREATE_ADVICE, CASession
from aegis_certs._ca.view import CAView
from aegis_certs._store.directory import Store
from aegis_certs._x509.keys import key_id, key_type_of
from aegis_certs._x509.names import (
    CA_KEY_TYPE,
    CA_NAME,
    NEXT_CA_NAME,
    NEXT_DOCUMENTS_NAME,
    OLD_CA_NAME,
    KeyType,
)
from aegis_certs._x509.pem import KeyPair
from aegis_certs._x509.trust import TrustBundle
from aegis_certs._x509.validity import common_name, is_short_lived, issued_at
from aegis_certs.errors import InvalidRequestError, NotFoundError, RotationError, StillUsedError

_DAY = timedelta(days=1)
_INSTALLED_AFTER = timedelta(seconds=30)  # what an issuer answers is in use long before
_Record = TypeVar("_Record", IssuedCertificate, IssuedToken)


def read_state(store: Store, at: datetime) -> RotationState:
    """The state of the rotation of a directory, as far as this user may read it.

    It needs neither the CA's key nor the right to write.
    """
    chain = store.chain(CA_NAME)
    if chain is None:
        raise NotFoundError("CA", store.certificate_path(CA_NAME), CREATE_ADVICE)
    view = CAView(store, at, TrustBundle(chain))
    view.inventory, error = Inventory.load_readable(store)
    missing = f"nodes whose certificates are not in {store.directory} are missing: {error}"
    return replace(state_of(view), not_read=() if error is None else (missing,))


def state_of(session: CAView) -> RotationState:
    """The state of the rotation."""
    store, current = session.store, session.bundle.certificates
    phase = phase_of(store)
    new = old = session.bundle
    if phase is RotationPhase.PREPARED:
        new = TrustBundle(store.chain(NEXT_CA_NAME) or current)
    elif phase is RotationPhase.ACTIVATED:
        old = TrustBundle(store.chain(OLD_CA_NAME) or current)
    both = TrustBundle(tuple(dict.fromkeys((*current, *new.certificates))))
    busy = phase is not RotationPhase.NONE
    path = TrustBundle(new.path())
    replaced = old.certificates[0]
    return RotationState(
        phase=phase,
        issuing=common_name(current[0].subject),
        next=common_name(new.certificates[0].subject) if phase is RotationPhase.PREPARED else None,
        old=common_name(replaced.subject),
        bundle_fingerprint=session.bundle.fingerprint,
        trusting=frozenset({both.fingerprint, path.fingerprint} if busy else ()),
        old_leaves=_leaves_of(session, replaced),
        old_used_until=_used_until(session, replaced),
        old_key_id=key_id(replaced).hex(),
        is_root=replaced.subject == replaced.issuer,
        issued_at=issued_at(replaced.not_valid_before_utc),
        ends_at=replaced.not_valid_after_utc,
        prepared_at=issued_at(new.certificates[0].not_valid_before_utc) if busy else None,
    )


def successor_spec(
    session: CASession,
    key_type: KeyType | None,
    days: float | None,
    name: str | None,
    root: Store | None,
) -> CASpec:
    """The spec of the next CA: the given values, and otherwise those of the issuing CA."""
    old = session.issuer.certificate
    life = old.not_valid_after_utc - issued_at(old.not_valid_before_utc)
    return CASpec(
        key_type=key_type or key_type_of(old, CA_KEY_TYPE),
        days=life / _DAY if days is None else days,
        name=successor_name(common_name(old.subject)) if name is None else name,
        trust_domain=session.trust_domain,
        root=root,
        passphrase=session.passphrase,
    )


def prepare(session: CASession, spec: CASpec) -> None:
    """Creates the next CA, and adds it to the trust bundle of the nodes."""
    store = session.store
    if (phase := phase_of(store)) is not RotationPhase.NONE:
        raise RotationError(store.directory, f"a rotation is already {phase}; finish it first")
    old = session.issuer.certificate
    if spec.root is None and old.subject != old.issuer:
        advice = (
            "name the directory of its root with `--root-dir`, or a new directory for a new root"
        )
        raise NotFoundError("root key of this intermediate CA", store.directory, advice)
    if any(spec.name == common_name(ca.subject) for ca in session.bundle.certificates):
        raise InvalidRequestError("name", spec.name, "the issuing CA has it, so choose another")
    created = create_ca(spec, session.at)
    pair = created.pair
    audit_log.record_ca(store.audit_path, Action.PREPARE, pair.chain[0], session.at)
    if created.signer is not None:
        store.commit(NEXT_DOCUMENTS_NAME, created.signer)
    store.commit(NEXT_CA_NAME, pair)
    chain = tuple(dict.fromkeys((*session.bundle.certificates, *pair.chain)))
    store.replace_chain(CA_NAME, chain)
    session.bundle = TrustBundle(chain)
    if spec.root is not None:
        crl.copy_crls(spec.root, store)


def activate(session: CASession, distrusting: Sequence[str] | None, confirm: bool) -> None:
    """Makes the prepared CA the issuing CA."""
    store = session.store
    new = store.pair(NEXT_CA_NAME, session.passphrase)
    if phase_of(store) is not RotationPhase.PREPARED or new is None:
        raise RotationError(store.directory, "no CA is prepared; prepare one first")
    if not confirm:
        _check_trusted(session, distrusting)
    current = session.bundle
    old = store.pair(CA_NAME, session.passphrase)
    if old is None:
        raise RotationError(store.directory, "another process removed its CA; try again")
    has_list = session.revocations.number is not None
    audit_log.record_ca(store.audit_path, Action.ACTIVATE, new.chain[0], session.at)
    store.commit(OLD_CA_NAME, KeyPair(current.path(), old.key, old.key_pem))
    chain = tuple(dict.fromkeys((*new.chain, *current.certificates)))
    store.commit(CA_NAME, KeyPair(chain, new.key, new.key_pem))
    store.remove(NEXT_CA_NAME)
    session.issuer, session.bundle = Issuer(new.chain[0], new.key), TrustBundle(chain)
    if has_list:
        session.write_revocations()


def retire(session: CASession, in_use: Sequence[str]) -> None:
    """Removes the old CA from the trust bundle, and removes its key."""
    store = session.store
    old = store.chain(OLD_CA_NAME)
    if phase_of(store) is not RotationPhase.ACTIVATED or old is None:
        raise RotationError(store.directory, "no new CA is activated; activate one first")
    nodes = sorted({entry.id for entry in _leaves_of(session, old[0])} | set(in_use))
    if nodes:
        what = f"nodes still have certificates of {common_name(old[0].subject)}"
        raise StillUsedError(store.directory, nodes, what, _replacement_advice(session, nodes))
    _retire(session)


def _retire(session: CASession) -> None:
    store, old = session.store, session.store.chain(OLD_CA_NAME) or ()
    keep = session.bundle.path()
    chain = tuple(ca for ca in session.bundle.certificates if ca in keep or ca not in old)
    has_list = session.revocations.number is not None
    audit_log.record_ca(store.audit_path, Action.RETIRE, old[0], session.at)
    store.replace_chain(CA_NAME, chain)
    store.remove(OLD_CA_NAME)
    install_next_signer(store, session.passphrase)
    session.bundle = TrustBundle(chain)
    if has_list:
        session.write_revocations()


def advance(session: CASession, view: MeshView) -> RotationDecision:
    """Does the step that the plan of the rotation says is due now, if there is one."""
    decision = RotationPlan(state_of(session)).decide(view, session.at)
    if decision.step is RotationStep.PREPARE:
        prepare(session, successor_spec(session, None, None, None, None))
    elif decision.step is RotationStep.ACTIVATE:
        activate(session, None, confirm=True)
    elif decision.step is RotationStep.RETIRE:
        _retire(session)
    return decision


def _check_trusted(session: CASession, distrusting: Sequence[str] | None) -> None:
    advice = "wait until they have the new trust bundle, or use `--confirm`"
    if distrusting is None:
        nodes = sorted({entry.id for entry in _leaves_of(session, session.issuer.certificate)})
        what = "it is not known whether these nodes trust the new CA"
        advice = "check that they have the new ca-cert.pem, then use `--confirm`"
    else:
        nodes = sorted(distrusting)
        what = "these nodes are not known to trust the new CA yet"
    if nodes:
        raise StillUsedError(session.store.directory, nodes, what, advice)


def _replacement_advice(session: CASession, nodes: Sequence[str]) -> str:
    here = [node for node in nodes if session.store.has_key(node)]
    latest = session.inventory.latest()
    members = [node for node in nodes if node in latest and latest[node].through]
    away = [node for node in nodes if node not in here and node not in members]
    ways = []
    if members:
        ways.append(
            f"wait until the members of the mesh have renewed, which takes about a minute "
            f"({', '.join(members)})"
        )
    if here:
        ways.append("renew the nodes whose keys are here (`aegis-certs renew`)")
    if away:
        ways.append(
            f"sign new requests of the nodes whose keys are elsewhere, {', '.join(away)} "
            f"(`aegis-certs csr` there)"
        )
    ways.append("or revoke certificates that are not used any more (`aegis-certs revoke`)")
    return ", ".join(ways)


def _leaves_of(session: CAView, ca: x509.Certificate) -> tuple[IssuedCertificate, ...]:
    """The newest leaf of each node if this CA issued it and it is usable.

    Those that commands make for themselves are left out: they are short-lived, and no issuer gave
    them.
    """
    latest = session.inventory.latest()
    for entry in [*latest.values()]:
        is_new = session.at - issued_at(entry.not_before) < _INSTALLED_AFTER
        if entry.through and is_new and len(all_of_it := session.inventory.of_node(entry.id)) > 1:
            latest[entry.id] = all_of_it[-2]  # the new one may still be on its way to the node
    latest |= {entry.id: entry for entry in session.unrecorded(session.store.names())}
    return tuple(
        entry
        for entry in _usable(session, latest.values(), ca)
        if entry.through or not is_short_lived(entry.not_before, entry.not_after)
    )


def _used_until(session: CAView, ca: x509.Certificate) -> datetime | None:
    """The latest end of what a CA has signed for others and can be used."""
    entries = (*session.inventory, *session.unrecorded(session.store.names()))
    ends = [entry.not_after for entry in _usable(session, entries, ca)]
    ends += [token.not_after for token in _usable(session, session.inventory.tokens(), ca)]
    return max(ends, default=None)


def _usable(session: CAView, entries: Iterable[_Record], ca: x509.Certificate) -> Iterator[_Record]:
    issuer = key_id(ca).hex()
    for entry in entries:
        # The new CA makes another signer of documents.
        if entry.issuer == issuer and entry.id != SIGNER_ID and session.is_usable(entry):
            yield entry
