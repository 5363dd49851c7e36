"""Creating CAs: a self-signed root, or an intermediate of a root that is kept elsewhere."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509

from aegis_certs._ca import audit_log, crl
from aegis_certs._ca.audit_log import Action
from aegis_certs._ca.builder import Issuer, build_authority, build_ca
from aegis_certs._ca.inventory import Inventory
from aegis_certs._ca.issued import IssuedCertificate
from aegis_certs._store.directory import Store
from aegis_certs._x509.keys import encode_ca_key, encode_key, generate_key
from aegis_certs._x509.names import (
    CA_KEY_TYPE,
    CA_NAME,
    DEFAULT_TRUST_DOMAIN,
    KeyType,
    parse_key_type,
)
from aegis_certs._x509.pem import KeyPair
from aegis_certs._x509.trust import TrustBundle
from aegis_certs._x509.validity import common_name, validity
from aegis_certs.errors import InvalidRequestError, NotFoundError

CA_DAYS = 365
ROOT_DAYS = 3650  # a root that is kept offline outlives many issuing CAs


SIGNER_ID = "document signer"  # its name in the inventory; no node id has a space


def default_name() -> str:
    """A common name with a random number, so that two CAs have different names."""
    return f"Aegis CA {secrets.token_hex(4)}"


@dataclass(frozen=True)
class CASpec:
    """What a new CA should be.

    Attributes:
        key_type: The type of its key, and of its root's.
        days: How long it lives.
        name: Its common name.
        trust_domain: The trust domain that it signs for.
        root: The directory of its root, which is created if it is missing; None for a CA that is
            its own root.
        passphrase: Encrypts the new keys, and decrypts the root's.
    """

    key_type: KeyType = CA_KEY_TYPE
    days: float = CA_DAYS
    name: str = field(default_factory=default_name)
    trust_domain: str = DEFAULT_TRUST_DOMAIN
    root: Store | None = None
    passphrase: bytes | None = None


@dataclass(frozen=True)
class NewCA:
    """A CA that was created.

    Attributes:
        pair: Its key, and its chain up to the root.
        signer: The signer of documents below its root; None for a CA that is its own root, which
            makes its signers itself.
    """

    pair: KeyPair
    signer: KeyPair | None = None


def default_root(directory: Path) -> Path:
    """The default directory of a root: a sibling of the CA's directory, to be moved away later."""
    return directory.with_name(f"{directory.name or 'certs'}-root")


def root_store(
    directory: Path, root_directory: str | Path | None, *, intermediate: bool = False
) -> Store | None:
    """The directory of the root of the CA in a directory; None for a CA that is its own root."""
    if root_directory is None:
        return Store(default_root(directory)) if intermediate else None
    if Path(root_directory).resolve() == directory.resolve():
        reason = "the CA itself is there; name another directory, which can be moved away"
        raise InvalidRequestError("root directory", str(root_directory), reason)
    return Store(root_directory)


def create_ca(spec: CASpec, at: datetime) -> NewCA:
    """A new CA with its chain up to the root; a missing root is created in its directory.

    The key of a root is needed only now, so it also makes a signer of documents now.

    Raises:
        InvalidRequestError: The name, days, key type or trust domain is invalid, or the CA in the
            root's directory may not sign CAs.
        CertsError: The root's directory cannot be used.
    """
    if spec.root is None:
        return NewCA(_self_signed(spec, spec.name, spec.days, 0, at))
    key = generate_key(parse_key_type(spec.key_type))
    with spec.root.locked():
        root = _load_or_create_root(spec, spec.root, at)
        issuer = Issuer(root.chain[0], root.key)
        _check_may_sign_cas(issuer.certificate)
        if spec.name == common_name(issuer.certificate.subject):
            # A certificate whose issuer is its own subject looks like a root.
            raise InvalidRequestError("name", spec.name, "its root has it, so choose another")
        span = validity(at, spec.days, issuer.certificate)
        certificate = build_ca(spec.name, key, span, trust_domain=spec.trust_domain, issuer=issuer)
        inventory = Inventory.load(spec.root)
        entry = IssuedCertificate.of(spec.name, certificate)
        inventory.record(spec.root, Action.ISSUE, entry, at)
        signer = make_signer(issuer, spec.trust_domain, spec.days, spec.passphrase, at)
        entry = IssuedCertificate.of(SIGNER_ID, signer.chain[0], days=spec.days)
        inventory.record(spec.root, Action.DOCUMENTS, entry, at)
        crl.write_revocations(spec.root, [issuer], TrustBundle(root.chain), inventory, at)
    pair = KeyPair((certificate, *root.chain), key, encode_ca_key(key, spec.passphrase))
    return NewCA(pair, signer)


def make_signer(
    root: Issuer, trust_domain: str, days: float, passphrase: bytes | None, at: datetime
) -> KeyPair:
    """A signer of documents below a root, which the caller records."""
    key = generate_key(KeyType.P256)
    span = validity(at, days, root.certificate)
    certificate = build_authority(trust_domain, key.public_key(), span, root)
    return KeyPair((certificate,), key, encode_key(key, passphrase))


def _self_signed(spec: CASpec, name: str, days: float, path_length: int, at: datetime) -> KeyPair:
    span = validity(at, days)
    key = generate_key(parse_key_type(spec.key_type))
    certificate = build_ca(name, key, span, trust_domain=spec.trust_domain, path_length=path_length)
    return KeyPair((certificate,), key, encode_ca_key(key, spec.passphrase))


def _load_or_create_root(spec: CASpec, store: Store, at: datetime) -> KeyPair:
    if store.chain(CA_NAME) is None and not store.has_key(CA_NAME):
        days = max(ROOT_DAYS, spec.days)
        root = _self_signed(spec, f"{spec.name[:59]} Root", days, 1, at)
        audit_log.record_ca(store.audit_path, Action.CREATE, root.chain[0], at)
        store.commit(CA_NAME, root)
        return root
    if not store.has_key(CA_NAME):
        advice = "copy the root's key here until this is done"
        raise NotFoundError("root key", store.key_path(CA_NAME), advice)
    found = store.pair(CA_NAME, spec.passphrase)
    if found is None:
        advice = "another process removed it; try again"
        raise NotFoundError("root CA", store.certificate_path(CA_NAME), advice)
    return KeyPair(TrustBundle(found.chain).path(), found.key, found.key_pem)


def _check_may_sign_cas(certificate: x509.Certificate) -> None:
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    if constraints.path_length == 0 or not constraints.ca:
        raise InvalidRequestError(
            "root directory",
            common_name(certificate.subject),
            "this CA may not sign other CAs; name another directory, where a root is created",
        )
