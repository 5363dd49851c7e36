"""The steps of a rotation, for somebody at the desk of the CA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from cryptography import x509

from aegis_certs._ca import crl
from aegis_certs._ca.audit_log import Action
from aegis_certs._ca.builder import Issuer
from aegis_certs._ca.create import CA_DAYS, Plan, make_ca, record_ca
from aegis_certs._ca.inventory import IssuedCertificate
from aegis_certs._ca.rotation_state import RotationPhase, RotationState, phase_of, successor_name
from aegis_certs._ca.session import CASession
from aegis_certs._store import files
from aegis_certs._store.directory import Store
from aegis_certs._x509.keys import describe_key, key_id
from aegis_certs._x509.names import CA_NAME, NEXT_CA_NAME, OLD_CA_NAME, KeyType
from aegis_certs._x509.trust import TrustBundle
from aegis_certs._x509.validity import BACKDATE, common_name
from aegis_certs.errors import InvalidRequestError, NotFoundError, RotationError, StillUsedError

# What lives no longer was made for one command, and nobody would renew it.
_BRIEF = timedelta(hours=1) + BACKDATE


def state_of(desk: CASession) -> RotationState:
    """Where the rotation stands."""
    store, current = desk.store, desk.bundle.certificates
    phase = phase_of(store)
    new = old = desk.bundle
    if phase is RotationPhase.PREPARED:
        new = TrustBundle(store.chain(NEXT_CA_NAME) or current)
    elif phase is RotationPhase.ACTIVATED:
        old = TrustBundle(store.chain(OLD_CA_NAME) or current)
    both = TrustBundle(tuple(dict.fromkeys((*current, *new.certificates))))
    busy = phase is not RotationPhase.NONE
    path = TrustBundle(new.path())
    return RotationState(
        phase=phase,
        issuing=common_name(current[0].subject),
        next=common_name(new.certificates[0].subject) if phase is RotationPhase.PREPARED else None,
        old=common_name(old.certificates[0].subject),
        bundle_fingerprint=desk.bundle.fingerprint,
        trusting=frozenset({both.fingerprint, path.fingerprint} if busy else ()),
        old_leaves=_leaves_of(desk, old.certificates[0]),
    )


def plan_after(
    desk: CASession,
    *,
    key_type: KeyType | None,
    days: float | None,
    name: str | None,
    root: Store | None,
) -> Plan:
    """The plan of the next CA: as the one at work, but for what is given."""
    old = desk.issuer.certificate
    kind = describe_key(old.public_key())
    life = (old.not_valid_after_utc - old.not_valid_before_utc).days or CA_DAYS
    return Plan(
        key_type=key_type or (KeyType(kind) if kind in set(KeyType) else KeyType.RSA_4096),
        days=life if days is None else days,
        name=successor_name(common_name(old.subject)) if name is None else name,
        trust_domain=desk.trust_domain,
        root=root,
        passphrase=desk.passphrase,
    )


def prepare(desk: CASession, plan: Plan) -> None:
    """Makes the next CA, which every node comes to trust beside the one at work.

    Raises:
        RotationError: A rotation is under way.
        InvalidRequestError: The name is that of the CA at work.
        NotFoundError: The CA is an intermediate, and the place of a root was not given.
    """
    store = desk.store
    if (phase := phase_of(store)) is not RotationPhase.NONE:
        raise RotationError(store.directory, f"one is {phase} already; finish that first")
    old = desk.issuer.certificate
    if plan.root is None and old.subject != old.issuer:
        advice = (
            "name the directory of its root with `--root-dir`, or a new one where another is made"
        )
        raise NotFoundError("root key of this intermediate CA", store.directory, advice)
    if any(plan.name == common_name(ca.subject) for ca in desk.bundle.certificates):
        raise InvalidRequestError("name", plan.name, "the CA at work has it, so choose another")
    pair = make_ca(plan, desk.at)
    record_ca(store, Action.PREPARE, pair.chain[0], desk.at)
    store.commit(NEXT_CA_NAME, pair)
    _widen(desk, pair.chain)
    if plan.root is not None:
        crl.carry(plan.root, store)


def activate(desk: CASession, distrusting: Sequence[str] | None, confirm: bool) -> None:
    """Lets the next CA issue from now on.

    Raises:
        RotationError: None is prepared.
        StillUsedError: Somebody might not trust it yet, and it was not confirmed.
    """
    store = desk.store
    new = store.pair(NEXT_CA_NAME, desk.passphrase)
    if phase_of(store) is not RotationPhase.PREPARED or new is None:
        raise RotationError(store.directory, "no CA is prepared; prepare one first")
    if not confirm:
        _ask(desk, distrusting)
    current = desk.bundle
    old = store.pair(CA_NAME, desk.passphrase)
    if old is None:
        raise RotationError(store.directory, "its CA went away meanwhile")
    record_ca(store, Action.ACTIVATE, new.chain[0], desk.at)
    store.commit(OLD_CA_NAME, replace(old, chain=current.path()))
    chain = tuple(dict.fromkeys((*new.chain, *current.certificates)))
    store.commit(CA_NAME, replace(new, chain=chain))
    store.remove(NEXT_CA_NAME)
    desk.issuer, desk.bundle = Issuer(new.chain[0], new.key), TrustBundle(chain)
    if files.exists(store.crl_path):
        desk.write_revocations()


def retire(desk: CASession, in_use: Sequence[str]) -> None:
    """Ends the trust in the old CA, and forgets its key.

    Raises:
        RotationError: No rotation is activated.
        StillUsedError: Nodes have certificates of the old CA.
    """
    store = desk.store
    old = store.chain(OLD_CA_NAME)
    if phase_of(store) is not RotationPhase.ACTIVATED or old is None:
        raise RotationError(store.directory, "no new CA is at work; activate one first")
    nodes = sorted({entry.id for entry in _leaves_of(desk, old[0])} | set(in_use))
    if nodes:
        what = f"nodes still have certificates of {common_name(old[0].subject)}"
        raise StillUsedError(store.directory, nodes, what, _ways_on(desk, nodes))
    keep = desk.bundle.path()
    chain = tuple(ca for ca in desk.bundle.certificates if ca in keep or ca not in old)
    record_ca(store, Action.RETIRE, old[0], desk.at)
    store.replace_chain(CA_NAME, chain)
    store.remove(OLD_CA_NAME)
    desk.bundle = TrustBundle(chain)
    if files.exists(store.crl_path):
        desk.write_revocations()


def _widen(desk: CASession, chain: Sequence[x509.Certificate]) -> None:
    bundle = tuple(dict.fromkeys((*desk.bundle.certificates, *chain)))
    desk.store.replace_chain(CA_NAME, bundle)
    desk.bundle = TrustBundle(bundle)


def _ask(desk: CASession, distrusting: Sequence[str] | None) -> None:
    directory = desk.store.directory
    advice = "wait until they have the new trust bundle, or go on with `--confirm`"
    if distrusting is None:
        nodes = sorted({entry.id for entry in _leaves_of(desk, desk.issuer.certificate)})
        what = "whether these nodes trust the new CA is not known here"
        advice = "see that they have the new ca-cert.pem, and go on with `--confirm`"
    else:
        nodes = sorted(distrusting)
        what = "these nodes are not known to trust the new CA yet"
    if nodes:
        raise StillUsedError(directory, nodes, what, advice)


def _ways_on(desk: CASession, nodes: Sequence[str]) -> str:
    here = [node for node in nodes if desk.store.has_key(node)]
    away = [node for node in nodes if node not in here]
    ways = []
    if here:
        ways.append("renew those whose keys are here (`aegis-certs renew`)")
    if away:
        ways.append(
            f"sign a new request of those whose keys are elsewhere, {', '.join(away)} "
            f"(`aegis-certs csr` there)"
        )
    ways.append("or revoke what is not used any more (`aegis-certs revoke`)")
    return ", ".join(ways)


def _leaves_of(desk: CASession, ca: x509.Certificate) -> tuple[IssuedCertificate, ...]:
    """The newest leaves of the nodes that are this CA's, and neither ended nor brief."""
    issuer = key_id(ca).hex()
    latest = desk.inventory.latest().values()
    return tuple(
        entry
        for entry in latest
        if entry.issuer == issuer
        and desk.is_live(entry)
        and entry.not_after - entry.not_before > _BRIEF
    )
