"""What a file, a node or a live server has to show, whether it can be trusted or not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from aegis_certs._ca.crl import read_revocations
from aegis_certs._ca.request import Request
from aegis_certs._inspect.live_server import look_at
from aegis_certs._inspect.verify import Check, check_certificate, check_key, is_expiring
from aegis_certs._store import files
from aegis_certs._store.directory import Store
from aegis_certs._time import utc_or_now
from aegis_certs._x509.identity import alternative_names
from aegis_certs._x509.keys import describe_key, issuer_key_id
from aegis_certs._x509.names import CA_NAME, validate_node_id
from aegis_certs._x509.pem import (
    KeyPair,
    is_encrypted,
    parse_certificates,
    parse_crls,
    parse_private_key,
)
from aegis_certs._x509.revocation_list import RevocationList, crl_number, revocations_of
from aegis_certs._x509.trust import TrustBundle, Usage, allows, is_ca
from aegis_certs._x509.validity import common_name, state_by_dates
from aegis_certs.errors import (
    CertsError,
    InvalidNodeIdError,
    InvalidPemError,
    InvalidRequestError,
    NotFoundError,
)

Thing = dict[str, object]

_SERVER = re.compile(r"\[?(?P<host>[^\[\]]+)\]?:(?P<port>\d{1,20})")


def inspect(what: str, directory: str, identity: str | None = None) -> list[Thing]:
    """What there is to say about a PEM file, a node of the directory, or a live server.

    Raises:
        InvalidRequestError: The server's port cannot be one.
        NotFoundError: There is no such file or node, or nobody answers.
        CertsError: It cannot be read.
    """
    if Path(what).is_file():
        return _in_file(Path(what))
    if server := _SERVER.fullmatch(what):
        return _at_server(server["host"], _port(server["port"]), directory, identity)
    chain = _chain_of(what, directory)
    return [_certificate(one) for one in chain]


def verify_target(
    what: str, directory: str, usage: Usage | None, name: str | None
) -> tuple[tuple[Check, ...], bool]:
    """The checks of a file's or a node's certificate, and whether it is expiring.

    Raises:
        NotFoundError: There is no such file or node, or no trust bundle.
        CertsError: It cannot be read.
    """
    store, now = Store(directory), utc_or_now(None)
    path = Path(what)
    if path.is_file():
        chain = parse_certificates(_read(path), source=path)
    else:
        chain = _chain_of(what, directory)
        path = store.certificate_path(what)
    key_path = path.with_name(path.name.replace("-cert.pem", "-key.pem"))
    at_rest = key_path != path and not files.exists(store.pending_path(what))
    key = _key_check(chain, path, key_path) if at_rest else None
    bundle_chain = store.chain(CA_NAME)
    if bundle_chain is None:
        advice = "name the directory of its CA with --dir"
        raise NotFoundError("trust bundle", store.certificate_path(CA_NAME), advice)
    bundle = TrustBundle(bundle_chain)
    revocations: RevocationList | CertsError
    try:
        revocations = read_revocations(store, bundle, now)
    except CertsError as error:
        revocations = error
    checks = check_certificate(
        chain, bundle, usage=usage, host=name, key=key, revocations=revocations, at=now
    )
    return checks, is_expiring(chain, now)


def _key_check(chain: tuple[x509.Certificate, ...], path: Path, key_path: Path) -> Check | None:
    """The check of the key beside a certificate; None where there is none."""
    if (data := files.read(key_path)) is None:
        return None
    if is_ca(chain[0]) and is_encrypted(data):
        return Check("key", None, "its key has a passphrase", done=False)
    try:
        pair = KeyPair(chain, *parse_private_key(data, source=key_path))
    except CertsError as error:
        return Check("key", error, "")
    return check_key(pair, path, key_path)


def _port(text: str) -> int:
    if not 0 < int(text) <= 65_535:
        raise InvalidRequestError("port", int(text), "a port is from 1 to 65535")
    return int(text)


def _read(path: Path) -> bytes:
    data = files.read(path)
    if data is None:
        raise NotFoundError("file", path, "it went away meanwhile")
    return data


def _chain_of(what: str, directory: str) -> tuple[x509.Certificate, ...]:
    store = Store(directory)
    advice = "name a file, a node id of the directory, or a server as HOST:PORT"
    if what != CA_NAME:
        try:
            validate_node_id(what)
        except InvalidNodeIdError as error:
            raise NotFoundError("file or node", what, advice) from error
    chain = store.chain(what)
    if chain is None:
        raise NotFoundError(f"certificate of {what}", store.certificate_path(what), advice)
    return chain


def _in_file(path: Path) -> list[Thing]:
    data = _read(path)
    found: list[Thing] = []
    if b"-----BEGIN CERTIFICATE-----" in data:
        found += [_certificate(one) for one in parse_certificates(data, source=path)]
    if b"CERTIFICATE REQUEST-----" in data:
        found.append(_request(Request.parse(data, path)))
    if b"-----BEGIN X509 CRL-----" in data:
        found += [_crl(one) for one in parse_crls(data, source=path)]
    if b"PRIVATE KEY-----" in data:
        found.append({"what": "private key", "secret": "not shown"})
    if not found:
        raise InvalidPemError("file", "there is nothing in PEM form in it that is known", path)
    return found


def _certificate(certificate: x509.Certificate) -> Thing:
    names = alternative_names(certificate)
    state = state_by_dates(certificate, utc_or_now(None))
    usages: Sequence[Usage] = ("server", "client")
    return {
        "what": f"certificate of {common_name(certificate.subject)}",
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "issuer_key_id": (issuer_key_id(certificate) or b"").hex(),
        "serial": f"{certificate.serial_number:x}",
        "fingerprint": certificate.fingerprint(hashes.SHA256()).hex(),
        "key": describe_key(certificate.public_key()),
        "sans": [*names.dns, *map(str, names.ips), *names.uris],
        "usages": [one for one in usages if allows(certificate, one) and not is_ca(certificate)],
        "not_before": certificate.not_valid_before_utc,
        "not_after": certificate.not_valid_after_utc,
        "days_left": (certificate.not_valid_after_utc - utc_or_now(None)).days,
        "state": str(state),
    }


def _request(request: Request) -> Thing:
    names = alternative_names(request.csr)
    usages = [
        name for name, asked in (("server", request.server), ("client", request.client)) if asked
    ]
    return {
        "what": f"request for {request.node_id}",
        "subject": request.csr.subject.rfc4514_string(),
        "key": describe_key(request.key),
        "sans": [*names.dns, *map(str, names.ips), *names.uris],
        "usages": usages,
    }


def _crl(crl: x509.CertificateRevocationList) -> Thing:
    return {
        "what": f"revocation list of {common_name(crl.issuer)}",
        "number": crl_number(crl),
        "this_update": crl.last_update_utc,
        "next_update": crl.next_update_utc,
        "revoked": [f"{one.serial} {one.reason}" for _, one in revocations_of(crl)],
    }


def _at_server(host: str, port: int, directory: str, identity: str | None) -> list[Thing]:
    store, files = Store(directory), None
    if identity is not None:
        if store.pair(validate_node_id(identity)) is None:
            advice = f"issue one with `aegis-certs issue {identity}`"
            raise NotFoundError(f"identity of {identity}", store.certificate_path(identity), advice)
        files = (store.certificate_path(identity), store.key_path(identity))
    seen = look_at(host, port, files)
    bundle = store.chain(CA_NAME)
    answers = {True: "accepted", False: "refused", None: "silent"}
    server: Thing = {
        "what": f"server {host}:{port}",
        "protocol": seen.protocol,
        "shown_to_it": identity or "no certificate",
        "its_answer": answers[seen.accepted],
        "trusted": _trust(seen.chain, bundle, store),
    }
    return [server, *(_certificate(one) for one in seen.chain)]


def _trust(
    chain: Sequence[x509.Certificate], cas: Sequence[x509.Certificate] | None, store: Store
) -> str:
    if cas is None:
        return f"not known: there is no trust bundle in {store.directory}"
    try:
        # Before Python 3.13 a server's intermediates cannot be seen; ours are in the bundle.
        identity = TrustBundle(cas).verify((*chain, *cas[:-1]), "server")
    except CertsError as error:
        return f"no: {error}"
    return f"yes, as {identity.node_id}"
