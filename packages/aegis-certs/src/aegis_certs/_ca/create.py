"""Making CAs: a root of its own, or an intermediate of a root that is kept elsewhere."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509

from aegis_certs._ca import audit_log, crl
from aegis_certs._ca.audit_log import Action
from aegis_certs._ca.builder import Issuer, build_ca
from aegis_certs._ca.inventory import Inventory, IssuedCertificate
from aegis_certs._ca.spec import parse_key_type
from aegis_certs._store.directory import Store
from aegis_certs._time import isoformat
from aegis_certs._x509.keys import describe_key, encode_key, generate_key
from aegis_certs._x509.names import CA_NAME, IPAddress, KeyType
from aegis_certs._x509.pem import KeyPair
from aegis_certs._x509.trust import TrustBundle
from aegis_certs._x509.validity import common_name, validity
from aegis_certs.errors import InvalidRequestError, NotFoundError

CA_DAYS = 365
ROOT_DAYS = 3650  # a root that is kept offline outlives many issuing CAs


@dataclass(frozen=True)
class Plan:
    """What a new CA is to be like.

    Attributes:
        key_type: Its key, and its root's.
        days: How long it lives.
        name: Its common name.
        trust_domain: The trust domain that it signs for.
        root: Where the CA above it is or will be; None for a CA that is its own root.
        passphrase: Encrypts the keys that are made, and opens the root's.
    """

    key_type: KeyType
    days: float
    name: str
    trust_domain: str
    root: Store | None
    passphrase: bytes | None


def default_name() -> str:
    """A name that tells two CAs apart."""
    return f"Aegis CA {secrets.token_hex(4)}"


def default_root(directory: Path) -> Path:
    """Where the root of an intermediate goes: beside the directory, since it is carried away."""
    return directory.with_name(f"{directory.name or 'certs'}-root")


def make_ca(plan: Plan, at: datetime) -> KeyPair:
    """A new CA with its path up to the root; a root that is missing is made in its directory.

    Raises:
        InvalidRequestError: The name, days, key type or trust domain cannot be used, or the CA
            in the root's directory may not sign CAs.
        CertsError: The root's directory cannot be used.
    """
    if plan.root is None:
        return _self_signed(plan, plan.name, plan.days, 0, at)
    key = generate_key(parse_key_type(plan.key_type))
    with plan.root.locked():
        root = _load_or_create_root(plan, plan.root, at)
        issuer = Issuer(root.chain[0], root.key)
        _check_may_sign_cas(issuer.certificate)
        if plan.name == common_name(issuer.certificate.subject):
            # A certificate that names itself as its issuer passes for a root.
            raise InvalidRequestError("name", plan.name, "its root has it, so choose another")
        span = validity(at, plan.days, issuer.certificate)
        certificate = build_ca(plan.name, key, span, trust_domain=plan.trust_domain, issuer=issuer)
        record_issue(plan.root, Action.ISSUE, plan.name, certificate, at)
        bundle, inventory = TrustBundle(root.chain), Inventory.load(plan.root)
        crl.write_revocations(plan.root, [issuer], bundle, inventory, at)
    return KeyPair((certificate, *root.chain), key, encode_key(key, plan.passphrase))


def record_issue(
    store: Store,
    action: Action,
    node_id: str,
    certificate: x509.Certificate,
    at: datetime,
    *,
    inventory: Inventory | None = None,
    hosts: Sequence[str | IPAddress] = (),
    own: IPAddress | None = None,
) -> None:
    """Writes down that a certificate was issued, before it is given away; under the lock.

    Raises:
        CertsError: The audit log or the inventory cannot be written.
    """
    inventory = Inventory.load(store) if inventory is None else inventory
    entry = IssuedCertificate.of(node_id, certificate, hosts=hosts, own=own)
    audit_log.record(store.audit_path, action, at, {"certificate": entry.to_json()})
    inventory.add(entry)
    inventory.save(store, at)


def record_ca(store: Store, action: Action, certificate: x509.Certificate, at: datetime) -> None:
    """Writes down what was done with a CA, before it is done; under the lock.

    Raises:
        DirectoryError: The audit log cannot be written.
    """
    facts = {
        "ca": common_name(certificate.subject),
        "serial": f"{certificate.serial_number:x}",
        "key": describe_key(certificate.public_key()),
        "not_after": isoformat(certificate.not_valid_after_utc),
    }
    audit_log.record(store.audit_path, action, at, facts)


def _self_signed(plan: Plan, name: str, days: float, path_length: int, at: datetime) -> KeyPair:
    span = validity(at, days)
    key = generate_key(parse_key_type(plan.key_type))
    certificate = build_ca(name, key, span, trust_domain=plan.trust_domain, path_length=path_length)
    return KeyPair((certificate,), key, encode_key(key, plan.passphrase))


def _load_or_create_root(plan: Plan, store: Store, at: datetime) -> KeyPair:
    if store.chain(CA_NAME) is None and not store.has_key(CA_NAME):
        days = max(ROOT_DAYS, plan.days)
        root = _self_signed(plan, f"{plan.name[:59]} Root", days, 1, at)
        record_ca(store, Action.CREATE, root.chain[0], at)
        store.commit(CA_NAME, root)
        return root
    if not store.has_key(CA_NAME):
        advice = "bring the root's key here for as long as this takes"
        raise NotFoundError("root key", store.key_path(CA_NAME), advice)
    found = store.pair(CA_NAME, plan.passphrase)
    if found is None:
        raise NotFoundError("root CA", store.certificate_path(CA_NAME), "it went away meanwhile")
    return KeyPair(TrustBundle(found.chain).path(), found.key, found.key_pem)


def _check_may_sign_cas(certificate: x509.Certificate) -> None:
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    if constraints.path_length == 0 or not constraints.ca:
        raise InvalidRequestError(
            "root directory",
            common_name(certificate.subject),
            "this CA may not sign other CAs; name another directory, where a root is made",
        )
