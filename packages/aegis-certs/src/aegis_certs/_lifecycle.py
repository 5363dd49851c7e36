"""Load what is there; make what is missing; renew what is due."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from ._authority import CertificateAuthority
from ._hosts import parse_host, type_of_ip
from ._identity import alternative_names
from ._keys import describe_key
from ._lifetime import BACKDATE, CertificateState, moment, state_by_dates
from ._naming import CA_NAME, DEFAULT_TRUST_DOMAIN, KeyType, validate_trust_domain
from ._options import warn_of_end
from ._order import LEAF_DAYS, Order
from ._store import Store
from ._tls import TLSConfig, make_tls
from ._trust import allows
from .errors import CertsError, ExpiredError, IdentityError, MissingHostError, NotFoundError

logger = logging.getLogger("aegis_certs")


def load_or_generate_tls(
    node_id: str,
    cert_dir: str | Path = "./certs",
    *,
    hosts: Iterable[str] = (),
    address: str | None = None,
    key_type: KeyType | None = None,
    trust_domain: str | None = None,
    at: datetime | None = None,
) -> TLSConfig:
    """Loads a node's identity from a directory; makes it, and the CA, where they are missing.

    A certificate that has expired, or has less than a third of its life left, or lacks a host
    that is asked for, is issued anew where the CA's key is in the directory. Any number of
    processes may do this at once: they end with one CA and certificates that chain to it.
    Files that fit are loaded without a lock, and need no right to write.

    Args:
        node_id: The node.
        cert_dir: The directory; made where it is missing.
        hosts: Further DNS names and IP addresses that the certificate must be valid for.
        address: The node's own address, `host:port`; an IP goes into the certificate where it
            is issued here.
        key_type: The key of what is made here; by default RSA-4096 for a CA, and RSA-2048, or
            the type of its predecessor, for a leaf.
        trust_domain: The trust domain that the CA must sign for; `aegis.internal` for a new CA
            by default.
        at: The moment that counts as now; now where none is given.

    Raises:
        InvalidNodeIdError: The node id cannot be one.
        InvalidRequestError: A host, the key type or the trust domain cannot be used.
        NotFoundError: The node's certificate is missing, and so is the key of the CA.
        ExpiredError: The certificate, or the CA, has expired and could not be renewed.
        VerificationError: The files are of another node or trust domain, do not belong together
            or do not chain to the CA.
        InvalidPemError: A file cannot be read as a certificate or key.
        DirectoryError: The directory cannot be used.
    """
    hosts = tuple(hosts)
    wish = _Wish(
        order=Order.of(
            node_id,
            hosts=hosts,
            address=address,
            days=LEAF_DAYS,
            key_type=key_type or KeyType.RSA_2048,
            client_only=False,
            server_only=False,
        ),
        required=tuple(parse_host(host) for host in hosts),
        key_type=key_type,
        trust_domain=None if trust_domain is None else validate_trust_domain(trust_domain),
        now=moment(at),
    )
    store = Store(cert_dir)
    current = _load(store, wish)
    if current is not None and wish.is_met_by(current):
        return current
    try:
        return _issue(store, wish)
    except CertsError as error:
        if current is None:
            raise
        return _go_on_with(current, wish, error)


@dataclass(frozen=True)
class _Wish:
    """What a node wants to start with."""

    order: Order
    required: tuple[str | type_of_ip, ...]
    key_type: KeyType | None
    trust_domain: str | None
    now: datetime

    def lacks(self, tls: TLSConfig) -> list[str | type_of_ip]:
        names = alternative_names(tls.certificate)
        return [host for host in self.order.hosts if not names.cover(host)]

    def is_met_by(self, tls: TLSConfig) -> bool:
        valid = state_by_dates(tls.certificate, self.now) is CertificateState.VALID
        return valid and not self.lacks(tls)

    def order_after(self, tls: TLSConfig, issuer: x509.Certificate) -> Order:
        """The order for the successor of a certificate: what that one had, and what is wanted.

        Only certificates of our own shape pass their hosts on: others may have `localhost`,
        with which any node would pass for any other.
        """
        old = tls.certificate
        names = alternative_names(old)
        kept = (*names.dns, *names.ips) if tls.trust_domain else ()
        hosts = dict.fromkeys((*self.order.hosts, *kept))
        hosts.pop(self.order.node_id, None)
        cut_short = old.not_valid_after_utc >= issuer.not_valid_after_utc
        life = old.not_valid_after_utc - old.not_valid_before_utc - BACKDATE
        kind = describe_key(old.public_key())
        return replace(
            self.order,
            hosts=tuple(hosts),
            days=LEAF_DAYS if cut_short or life <= timedelta() else life / timedelta(days=1),
            key_type=self.key_type or (KeyType(kind) if kind in set(KeyType) else KeyType.RSA_2048),
            server=allows(old, "server"),
            client=allows(old, "client"),
        )


def _load(store: Store, wish: _Wish) -> TLSConfig | None:
    """What is there, checked but for the leaf's own end; None where there is nothing."""
    node_id = wish.order.node_id
    pair = store.pair(node_id)
    if pair is None:
        return None
    bundle = store.chain(CA_NAME)
    if bundle is None:
        advice = f"copy the CA's certificate to where the certificate of {node_id} is"
        raise NotFoundError("CA certificate", store.certificate_path(CA_NAME), advice)
    tls = make_tls(pair, bundle)
    if tls.node_id != node_id:
        raise IdentityError(
            f"{store.certificate_path(node_id)} is the certificate of {tls.node_id}, not of "
            f"{node_id}; "
            f"put the right one there",
            tls.node_id,
        )
    if wish.trust_domain and tls.trust_domain and wish.trust_domain != tls.trust_domain:
        raise _other_domain(f"the certificate of {node_id}", tls.trust_domain, wish)
    if state_by_dates(tls.certificate, wish.now) is not CertificateState.EXPIRED:
        tls.bundle.verify(tls.chain, None, at=wish.now)
    return tls


def _issue(store: Store, wish: _Wish) -> TLSConfig:
    if store.chain(CA_NAME) is not None and not store.has_key(CA_NAME):
        node_id = wish.order.node_id
        raise NotFoundError(
            f"certificate of {node_id} that can be used, nor a CA key to issue one,",
            store.directory,
            f"issue it where the CA's key is (`aegis-certs issue {node_id}`), and copy its two "
            f"files here",
        )
    with store.locked():
        current = _load(store, wish)
        if current is not None and wish.is_met_by(current):
            return current  # another process was faster
        ca = _load_or_create_ca(store, wish)
        if current is None:
            logger.info("issuing a certificate for %s in %s", wish.order.node_id, store.directory)
            return ca.issue_locked(wish.order, wish.now)
        if not wish.lacks(current) and current.not_after >= ca.certificate.not_valid_after_utc:
            warn_of_end(current, state_by_dates(current.certificate, wish.now))
            return current  # a new one would end no later: the CA itself ends then
        logger.info("renewing the certificate of %s in %s", wish.order.node_id, store.directory)
        return ca.issue_locked(wish.order_after(current, ca.certificate), wish.now)


def _load_or_create_ca(store: Store, wish: _Wish) -> CertificateAuthority:
    if store.chain(CA_NAME) is None and not store.has_key(CA_NAME):
        logger.info("making a CA in %s", store.directory)
        return CertificateAuthority.create_locked(
            store,
            key_type=wish.key_type or KeyType.RSA_4096,
            trust_domain=wish.trust_domain or DEFAULT_TRUST_DOMAIN,
            at=wish.now,
        )
    ca = CertificateAuthority.load_from(store)
    if wish.trust_domain and wish.trust_domain != ca.trust_domain:
        raise _other_domain(f"the CA in {store.directory}", ca.trust_domain, wish)
    return ca


def _go_on_with(current: TLSConfig, wish: _Wish, error: CertsError) -> TLSConfig:
    """Uses what is there, where that is possible, after it could not be issued anew."""
    state = state_by_dates(current.certificate, wish.now)
    if state is CertificateState.EXPIRED:
        advice = f"it could not be renewed: {error}"
        raise ExpiredError(current.node_id, current.not_after, advice) from error
    for host in wish.lacks(current):
        if host in wish.required:
            raise MissingHostError(current.node_id, str(host)) from error
    if state is CertificateState.EXPIRING:
        logger.warning(
            "the certificate of %s ends at %s UTC and could not be renewed: %s",
            current.node_id,
            f"{current.not_after:%Y-%m-%d %H:%M:%S}",
            error,
        )
    return current


def _other_domain(whose: str, domain: str, wish: _Wish) -> IdentityError:
    return IdentityError(
        f"{whose} is of trust domain {domain}, not {wish.trust_domain}; "
        f"ask for its own, or use another directory",
        wish.order.node_id,
    )
