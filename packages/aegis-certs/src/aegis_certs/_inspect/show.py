"""What is in a file, in the certificate of a node, or in that of a live server."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from aegis_certs._ca.request import Request
from aegis_certs._inspect.evaluate import Evaluation, evaluate, load_chain, load_identity, read_file
from aegis_certs._inspect.live_server import probe
from aegis_certs._store import files
from aegis_certs._store.directory import Store
from aegis_certs._time import utc_or_now
from aegis_certs._x509.authority import is_authority
from aegis_certs._x509.identity import alternative_names
from aegis_certs._x509.keys import describe_key, issuer_key_id
from aegis_certs._x509.names import CA_NAME
from aegis_certs._x509.pem import parse_certificates, parse_crls
from aegis_certs._x509.revocation import revocations_of
from aegis_certs._x509.revocation_list import crl_number
from aegis_certs._x509.trust import TrustBundle, is_ca
from aegis_certs._x509.validity import common_name
from aegis_certs.errors import CertsError, InvalidPemError, InvalidRequestError

Facts = dict[str, object]

_SERVER = re.compile(r"\[?(?P<host>[^\[\]]+)\]?:(?P<port>\d{1,20})")


def inspect(target: str, directory: str, identity: str | None = None) -> list[Facts]:
    """The facts of a PEM file, a node of the directory, or a live server; none is verified.

    Raises:
        InvalidRequestError: The port of the server is out of range.
        NotFoundError: There is no such file or node, or no server answers.
        CertsError: It cannot be read.
    """
    if files.is_file(Path(target)):
        return _in_file(Path(target))
    if server := _SERVER.fullmatch(target):
        port = int(server["port"])
        if not 0 < port <= 65_535:
            raise InvalidRequestError("port", port, "a port is from 1 to 65535")
        return _at_server(server["host"], port, directory, identity)
    return _certificates(load_chain(target, Store(directory))[0])


def _in_file(path: Path) -> list[Facts]:
    data = read_file(path)
    found: list[Facts] = []
    if b"-----BEGIN CERTIFICATE-----" in data:
        found += _certificates(parse_certificates(data, source=path))
    if b"CERTIFICATE REQUEST-----" in data:
        found.append(_request(Request.parse(data, path)))
    if b"-----BEGIN X509 CRL-----" in data:
        found += [_crl(one) for one in parse_crls(data, source=path)]
    if b"PRIVATE KEY-----" in data:
        found.append({"what": "private key", "secret": "not shown"})
    if not found:
        raise InvalidPemError(
            "file", "it has no certificate, request, CRL or key in PEM form", path
        )
    return found


def _certificates(certificates: Sequence[x509.Certificate]) -> list[Facts]:
    now = utc_or_now(None)
    return [_certificate(evaluate((certificate,), now)) for certificate in certificates]


def _certificate(found: Evaluation) -> Facts:
    certificate, info = found.chain[0], found.info
    name = "the document signer" if is_authority(certificate) else info.id
    return {
        "what": f"certificate of {name}",
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "issuer_key_id": (issuer_key_id(certificate) or b"").hex(),
        "serial": info.serial,
        "fingerprint": certificate.fingerprint(hashes.SHA256()).hex(),
        "key": info.key,
        "sans": info.sans,
        "usages": _usages(found),
        "not_before": info.not_before,
        "not_after": info.not_after,
        "days_left": info.days_left,
        "state": str(found.dates),
    }


def _usages(found: Evaluation) -> Sequence[str]:
    certificate = found.chain[0]
    if is_ca(certificate):
        return ("CA",)
    return ("document signing",) if is_authority(certificate) else found.usages


def _request(request: Request) -> Facts:
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


def _crl(crl: x509.CertificateRevocationList) -> Facts:
    return {
        "what": f"revocation list of {common_name(crl.issuer)}",
        "number": crl_number(crl),
        "this_update": crl.last_update_utc,
        "next_update": crl.next_update_utc,
        "revoked": [f"{one.serial} {one.reason}" for _, one in revocations_of(crl)],
    }


def _at_server(host: str, port: int, directory: str, identity: str | None) -> list[Facts]:
    store, shown = Store(directory), None
    if identity is not None:
        load_identity(store, identity)
        shown = (store.certificate_path(identity), store.key_path(identity))
    seen = probe(host, port, shown)
    answers = {True: "accepted", False: "refused", None: "silent"}
    server: Facts = {
        "what": f"server {host}:{port}",
        "protocol": seen.protocol,
        "shown_to_it": identity or "no certificate",
        "its_answer": answers[seen.accepted],
        "trusted": _trust(seen.chain, store),
    }
    return [server, *_certificates(seen.chain)]


def _trust(chain: Sequence[x509.Certificate], store: Store) -> str:
    cas = store.chain(CA_NAME)
    if cas is None:
        return f"not known: there is no trust bundle in {store.directory}"
    try:
        # Before Python 3.13 a server's intermediates cannot be read; ours are in the bundle.
        identity = TrustBundle(cas).verify((*chain, *cas[:-1]), "server")
    except CertsError as error:
        return f"no: {error}"
    return f"yes, as {identity.node_id}"
