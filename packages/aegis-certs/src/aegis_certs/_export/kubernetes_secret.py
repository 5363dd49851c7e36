"""An identity as the manifest of a Kubernetes secret."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from aegis_certs._x509.tls_config import TLSConfig
from aegis_certs.errors import InvalidRequestError

# RFC 1123, as Kubernetes names its objects.
_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_MAX_NAME = 253


def kubernetes_secret(tls: TLSConfig, *, name: str | None = None) -> dict[str, Any]:
    """An identity as a secret of type `kubernetes.io/tls`; it contains the key.

    `tls.crt` is the chain, `tls.key` the key, and `ca.crt` the trust bundle. Ingress controllers
    and cert-manager use the same names.

    Args:
        tls: The identity.
        name: The name of the secret; by default the node id.

    Raises:
        InvalidRequestError: Kubernetes does not accept the name.
    """
    name = tls.node_id if name is None else name
    if len(name) > _MAX_NAME or not _NAME.fullmatch(name):
        reason = f"use at most {_MAX_NAME} lower-case letters, digits, hyphens and dots"
        raise InvalidRequestError("name", name, reason)
    parts = {
        "tls.crt": tls.certificate_chain,
        "tls.key": tls.private_key,
        "ca.crt": tls.trust_bundle,
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "type": "kubernetes.io/tls",
        "data": {key: base64.b64encode(data).decode() for key, data in parts.items()},
    }


def to_yaml(secret: dict[str, Any], indent: str = "") -> str:
    """A manifest as YAML. All its values are texts, and JSON texts are YAML texts."""
    lines = []
    for key, value in secret.items():
        if isinstance(value, dict):
            lines.append(f"{indent}{key}:\n{to_yaml(value, indent + '  ')}")
        else:
            # A name may look like a number; the other texts are constants and base64.
            shown = json.dumps(value) if key == "name" else value
            lines.append(f"{indent}{key}: {shown}\n")
    return "".join(lines)
