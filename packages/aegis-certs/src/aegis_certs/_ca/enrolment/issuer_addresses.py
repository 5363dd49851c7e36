"""The file `issuers.json`: where the issuers of a CA directory can be reached."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from aegis_certs._store import files
from aegis_certs._store.directory import Store
from aegis_certs._x509.issuer_address import MAX_ISSUERS, IssuerAddress
from aegis_certs.errors import InvalidNodeIdError, InvalidRequestError

logger = logging.getLogger("aegis_certs")


def write_issuer_address(directory: str | Path, node_id: str, address: str | None) -> None:
    """Writes where an issuer can be reached beside the inventory of its CA.

    `CertificateAuthority.create_token` puts these addresses into tokens. The file has the last 16
    issuers that wrote into it.

    Args:
        directory: The directory of the CA.
        node_id: The node id of the issuer.
        address: Its address, `host:port`; None removes it.

    Raises:
        InvalidNodeIdError: The node id is invalid.
        InvalidRequestError: The address is not `host:port`.
        DirectoryError: The directory cannot be written.
    """
    new = None if address is None else IssuerAddress.parse(node_id, address)
    store = Store(directory)
    with store.locked():
        found = {one.node_id: one.address for one in read_issuer_addresses(store)}
        if found.get(node_id) == address:
            return
        found.pop(node_id, None)
        known = [{"id": one, "address": place} for one, place in found.items()]
        if new is not None:
            known.append({"id": new.node_id, "address": new.address})
        import json  # loads slowly

        data = json.dumps({"version": 1, "issuers": known[-MAX_ISSUERS:]}, indent=1).encode()
        files.write(store.issuers_path, data + b"\n", files.PRIVATE)


def read_issuer_addresses(store: Store) -> tuple[IssuerAddress, ...]:
    """The issuers in the file, the one that wrote last at the end; a damaged file has none."""
    data = files.read(store.issuers_path)
    if data is None:
        return ()
    import json  # loads slowly

    try:
        content = json.loads(data)
        return tuple(_parse(one) for one in content["issuers"])
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        reason: object = error
    except (InvalidNodeIdError, InvalidRequestError) as error:
        reason = error
    logger.warning("%s is damaged (%s); the next issuer writes it anew", store.issuers_path, reason)
    return ()


def _parse(one: Mapping[str, str]) -> IssuerAddress:
    return IssuerAddress.parse(one["id"], one["address"])
