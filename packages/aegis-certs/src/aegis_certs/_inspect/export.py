"""An identity, or the trust bundle, as one text to carry elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from aegis_certs._identity.load import TLSOptions
from aegis_certs._store.directory import Store
from aegis_certs._x509.names import CA_NAME, validate_node_id
from aegis_certs._x509.pem import encode_certificates
from aegis_certs._x509.tls_config import make_tls
from aegis_certs.errors import NotFoundError

_VARIABLES = {
    "key": TLSOptions.key_env,
    "certificate": TLSOptions.cert_env,
    "trust_bundle": TLSOptions.ca_env,
}


def export_parts(directory: str | Path, node_id: str | None) -> dict[str, bytes]:
    """The PEM texts of the trust bundle, and those of a node before it where one is named.

    Raises:
        NotFoundError: The trust bundle or the identity is not here.
        CertsError: A file cannot be used.
    """
    store = Store(directory)
    bundle = store.chain(CA_NAME)
    if bundle is None:
        advice = "make a CA, or copy its certificate"
        raise NotFoundError("trust bundle", store.certificate_path(CA_NAME), advice)
    if node_id is None:
        return {"trust_bundle": encode_certificates(bundle)}
    pair = store.pair(validate_node_id(node_id))
    if pair is None:
        advice = f"issue one with `aegis-certs issue {node_id}`"
        raise NotFoundError(f"identity of {node_id}", store.certificate_path(node_id), advice)
    tls = make_tls(pair, bundle)
    return {
        "key": tls.private_key,
        "certificate": tls.certificate_chain,
        "trust_bundle": tls.trust_bundle,
    }


def environment_file(parts: Mapping[str, bytes]) -> str:
    r"""The texts as variables, one on a line, with `\n` for line breaks.

    `load_tls` reads them so, and so do the environment files of containers and of systemd.
    """
    lines = (
        f"{_VARIABLES[name]}={data.decode().strip().replace(chr(10), chr(92) + 'n')}\n"
        for name, data in parts.items()
    )
    return "".join(lines)
