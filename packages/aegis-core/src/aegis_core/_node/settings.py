"""Options of a node that come from environment variables and from a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from aegis_certs import CertsError, parse_worker_id
from aegis_discovery import ServiceInfo
from aegis_discovery.errors import DiscoveryError
from aegis_discovery.transport import parse_seed, split_host_port

from aegis_core.errors import ConfigError

if TYPE_CHECKING:
    from aegis_certs import TLSOptions

NodeT = TypeVar("NodeT")

VARIABLES = {
    "id": "AEGIS_NODE_ID",
    "address": "AEGIS_ADDRESS",
    "advertise": "AEGIS_ADVERTISE",
    "services": "AEGIS_SERVICES",
    "seed_peers": "AEGIS_JOIN",
    "registry": "AEGIS_REGISTRY",
    "metrics": "AEGIS_METRICS",
    "telemetry": "AEGIS_TELEMETRY",
    "name": "AEGIS_NODE_NAME",
    "type": "AEGIS_NODE_TYPE",
    "region": "AEGIS_REGION",
    "zone": "AEGIS_ZONE",
    "boundary": "AEGIS_BOUNDARY",
    "mesh": "AEGIS_MESH",
    "cert_dir": "AEGIS_CERT_DIR",
    "cert_file": "AEGIS_CERT_FILE",
    "key_file": "AEGIS_KEY_FILE",
    "ca_file": "AEGIS_CA_FILE",
    "policy": "AEGIS_POLICY",
    "token_file": "AEGIS_TOKEN_FILE",
    "issuer": "AEGIS_ISSUER",
    "rotate": "AEGIS_ROTATE",
    "workers": "AEGIS_WORKERS",
}
"""The variable of each setting, which is also a key in the file. `aegis node run` has the same."""

CONFIG = "AEGIS_CONFIG"
TOKEN = "AEGIS_ENROLL_TOKEN"  # noqa: S105 - the name of a variable
DEFAULT_ADDRESS = "127.0.0.1:0"
LISTS = ("services", "seed_peers")
FLAGS = ("issuer", "telemetry")
FILES = ("cert_file", "key_file", "ca_file")


def configured(
    make: Callable[..., NodeT],
    options: Mapping[str, Any],
    config: str | Path | None,
    environ: Mapping[str, str] = os.environ,
) -> NodeT:
    """Makes a node of these options, then of the environment, then of the file.

    Raises:
        ConfigError: If a setting cannot work; the error names the variable, or the key and file.
    """
    values: dict[str, Any] = {"address": DEFAULT_ADDRESS}
    sources: dict[str, str] = {}
    file, named_by = (config, "config") if config else (environ.get(CONFIG), CONFIG)
    if file:
        for key, value in _read_file(file, named_by).items():
            values[key], sources[key] = value, f"{key} in {file}"
    for key, variable in VARIABLES.items():
        if text := environ.get(variable):
            values[key], sources[key] = text.split() if key in LISTS else text, variable
    for key in options:
        values.pop(key, None)
        sources.pop(key, None)
    _parse(values, sources)
    _read_token(values, options, environ)
    values["tls_options"] = _own_files(values, sources)
    if not options.keys().isdisjoint({"cert_dir", "tls"}):
        del values["tls_options"]  # an argument overrides files that are named elsewhere
    values |= {key: value for key, value in options.items() if key != "token_file"}
    if isinstance(values.get("telemetry"), bool):
        values["telemetry"] = _telemetry(sources) if values["telemetry"] else None
    if "id" not in values:
        raise ConfigError(
            VARIABLES["id"],
            "it is not set; name the node by this variable, by `id` in a configuration file, or by "
            "an argument (`--id` of `aegis node run`)",
        )
    services = values.get("services") or ()
    if not values.get("registrars") and not isinstance(services, str) and any(services):
        reason = (
            f"nothing would serve {' and '.join(map(str, services))}; give the function that adds "
            f"its gRPC service to the server, as registrars=[...], or as MODULE:NAME, such as "
            f"orders:register, to `aegis node run`"
        )
        raise ConfigError(sources.get("services", "services"), reason)
    try:
        return make(**values)
    except ConfigError as error:
        if error.option in options or error.option not in VARIABLES:
            raise
        unset = f"{error.option} ({VARIABLES[error.option]})"
        source = sources.get(error.option, unset)
        raise ConfigError(source, error.reason) from error


def _read_file(path: str | Path, named_by: str) -> dict[str, Any]:
    import tomllib  # most nodes have no such file

    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        reason = f"cannot read {path}: {error.strerror or error}"
        raise ConfigError(named_by, reason) from error
    except ValueError as error:  # not UTF-8, or not TOML
        raise ConfigError(named_by, f"{path} is not valid TOML: {error}") from error
    table = document.pop("node", {})
    if document or not isinstance(table, dict):
        raise ConfigError(named_by, f"{path} may have the table [node] and nothing else")
    for key, value in table.items():
        if key not in VARIABLES:
            known = ", ".join(VARIABLES)
            raise ConfigError(f"{key} in {path}", f"it is not known; [node] can have {known}")
        texts = value if key in LISTS else [value]
        if (key == "workers" and isinstance(value, int)) or (
            key in FLAGS and isinstance(value, bool)
        ):
            continue
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            expected = "a list of texts in quotes" if key in LISTS else "a text in quotes"
            raise ConfigError(f"{key} in {path}", f"it must be {expected}")
    return table


def _registry(text: str) -> object:
    from aegis_discovery.registry import parse_registry  # most meshes have none

    return parse_registry(text)


def _parse(values: dict[str, Any], sources: Mapping[str, str]) -> None:
    """Checks the values where their sources are known, and parses the services."""
    checks: dict[str, Callable[[str], object]] = {
        "id": parse_worker_id,
        "address": split_host_port,
        "advertise": split_host_port,
        "seed_peers": parse_seed,
        "registry": _registry,
        "services": _service,
    }
    for key in FLAGS:
        if isinstance(values.get(key), str):
            values[key] = _flag(values[key], sources[key])
    for key in checks.keys() & sources.keys():
        try:
            parsed = [
                checks[key](text) for text in (values[key] if key in LISTS else [values[key]])
            ]
        except (CertsError, DiscoveryError, ValueError) as error:
            raise ConfigError(sources[key], str(error)) from error
        if key == "services":
            values[key] = parsed


def _service(text: str) -> ServiceInfo:
    name, slash, version = text.partition("/")
    version, at, scope = version.partition("@")
    if not (name and slash and version) or "/" in version or (at and scope != "region"):
        raise ValueError(f"{text!r} is not NAME/VERSION, such as orders/v1, or NAME/VERSION@region")
    return ServiceInfo(name, version, scope or "mesh")


def _read_token(
    values: dict[str, Any], options: Mapping[str, Any], environ: Mapping[str, str]
) -> None:
    """Names the file of the token, which is read when it is needed, or else the variable."""
    file = values.pop("token_file", None) or options.get("token_file")
    if "token" in options:
        return
    if file:
        values["token"] = Path(file)
    elif text := environ.get(TOKEN):
        values["token"] = text


def _flag(text: str, source: str) -> bool:
    known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if text.lower() not in known:
        raise ConfigError(source, f"{text!r} is neither true nor false; set 1 or 0")
    return known[text.lower()]


def _telemetry(sources: Mapping[str, str]) -> object:
    """Reports to the providers of OpenTelemetry that are set for the whole process."""
    try:
        from aegis_discovery.telemetry import OpenTelemetry
    except ModuleNotFoundError as error:
        reason = (
            "it needs opentelemetry-api, which is not installed; add opentelemetry-api>=1.30 to "
            "your dependencies, or the extra `otel` to aegis-core"
        )
        raise ConfigError(sources.get("telemetry", "telemetry"), reason) from error
    return OpenTelemetry()


def _own_files(values: dict[str, Any], sources: Mapping[str, str]) -> TLSOptions | None:
    files = {key: values.pop(key) for key in FILES if key in values}
    if not files:
        return None
    missing = [VARIABLES[key] for key in FILES if key not in files]
    if missing:
        source = sources[next(iter(files))]
        raise ConfigError(source, f"{' and '.join(missing)} must be set too, or the same in a file")
    from aegis_certs import TLSOptions  # most nodes have a directory of their own

    return TLSOptions(**files)
