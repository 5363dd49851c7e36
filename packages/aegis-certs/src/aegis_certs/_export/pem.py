"""An identity or the trust bundle as one PEM text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cryptography import x509

from aegis_certs._identity.load import TLSOptions
from aegis_certs._inspect.evaluate import load_identity
from aegis_certs._store.directory import Store
from aegis_certs._x509.names import CA_NAME
from aegis_certs._x509.pem import encode_certificates
from aegis_certs._x509.tls_config import TLSConfig, make_tls
from aegis_certs.errors import NotFoundError

_VARIABLES = {
    "key": TLSOptions.key_env,
    "certificate": TLSOptions.cert_env,
    "trust_bundle": TLSOptions.ca_env,
}


def trust_bundle(store: Store) -> tuple[x509.Certificate, ...]:
    """The CAs of a directory.

    Raises:
        NotFoundError: The directory has no trust bundle.
        CertsError: It cannot be used.
    """
    bundle = store.chain(CA_NAME)
    if bundle is None:
        advice = "make a CA, or copy its certificate"
        raise NotFoundError("trust bundle", store.certificate_path(CA_NAME), advice)
    return bundle


def export_identity(directory: str | Path, node_id: str) -> TLSConfig:
    """The identity of a node in a directory, as it is: expired or not.

    Raises:
        NotFoundError: The directory has no trust bundle, or no such identity.
        CertsError: A file cannot be used.
    """
    store = Store(directory)
    return make_tls(load_identity(store, node_id), trust_bundle(store))


def export_parts(directory: str | Path, node_id: str | None) -> dict[str, bytes]:
    """The PEM text of the trust bundle, after the key and the chain of a node if one is named.

    Raises:
        CertsError: As `export_identity`.
    """
    if node_id is None:
        return {"trust_bundle": encode_certificates(trust_bundle(Store(directory)))}
    tls = export_identity(directory, node_id)
    return {
        "key": tls.private_key,
        "certificate": tls.certificate_chain,
        "trust_bundle": tls.trust_bundle,
    }


def environment_file(parts: Mapping[str, bytes]) -> str:
    r"""The texts as variables, one a line, with `\n` for line breaks.

    `load_tls` reads this form, and it is valid in environment files of containers and systemd.
    """
    lines = (
        f"{_VARIABLES[name]}={data.decode().strip().replace(chr(10), chr(92) + 'n')}\n"
        for name, data in parts.items()
    )
    return "".join(lines)
