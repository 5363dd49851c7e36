"""Shows the parameters of functions that pass on keyword arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from aegis_certs import CertificateAuthority, load_or_generate_tls
from aegis_certs._ca.spec import RequestOptions, SpecOptions
from aegis_discovery._client.arguments import ConnectArguments
from aegis_discovery._client.setup import create_client
from sphinx.application import Sphinx

# For each `TypedDict` of keyword arguments: what takes them, and so knows their defaults.
_TAKERS: dict[type, Callable[..., Any]] = {
    ConnectArguments: create_client,
    RequestOptions: load_or_generate_tls,
    SpecOptions: CertificateAuthority.issue,
}
_BY_ANNOTATION = {f"Unpack[{kind.__name__}]": (kind, taker) for kind, taker in _TAKERS.items()}

# Users never construct these, so their constructors are hidden.
_NOT_CONSTRUCTED = {"CertificateAuthority", "Mesh", "MeshServer", "PeerManager", "HealthMonitor"}


def setup(app: Sphinx) -> dict[str, bool]:
    """Adapts the signatures of autodoc."""
    app.connect("autodoc-before-process-signature", _expand)
    app.connect("autodoc-process-signature", _adapt)
    return {"parallel_read_safe": True}


def _expand(_app: Sphinx, subject: Any, _bound: bool) -> None:
    subject = getattr(subject, "__func__", subject)
    try:
        signature = inspect.signature(subject)
    except (TypeError, ValueError):
        return
    *others, last = [*signature.parameters.values()] or [None]
    found = _BY_ANNOTATION.get(str(last.annotation)) if last else None
    if found is None:
        return
    kind, taker = found
    taken = [
        parameter
        for parameter in inspect.signature(taker).parameters.values()
        if parameter.name in kind.__annotations__
    ]
    subject.__signature__ = signature.replace(parameters=[*others, *taken])
    # autodoc takes the annotations from here.
    subject.__annotations__ |= {parameter.name: parameter.annotation for parameter in taken}


def _adapt(
    _app: Sphinx, what: str, name: str, _object: Any, _options: Any, signature: Any, result: Any
) -> tuple[Any, Any] | None:
    """Hides constructors, and writes the factories of dataclasses as values."""
    if what == "class" and name.rpartition(".")[2] in _NOT_CONSTRUCTED:
        return "", result
    # autodoc cannot parse `<factory>`, and would print full names of modules beside it.
    return (signature or "").replace("<factory>", "{}") or signature, result
