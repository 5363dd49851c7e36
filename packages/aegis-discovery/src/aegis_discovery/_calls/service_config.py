"""The configuration of calls by method, in the format of gRPC's service config."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from grpc import StatusCode

from aegis_discovery._calls.retry_budget import DEFAULT_POLICY, RetryPolicy
from aegis_discovery.errors import ServiceConfigError

MAX_ATTEMPTS = 5
"""A larger number counts as five, as in gRPC."""

_DURATION = r"(\d{1,9}(?:\.\d{1,9})?)s"
_CODES = {code.name: code for code in StatusCode} | {code.value[0]: code for code in StatusCode}

# Fields that are not supported on purpose, and what to use instead.
_INSTEAD = {
    "loadBalancingConfig": "the pool balances: use its argument balancers",
    "loadBalancingPolicy": "the pool balances: use its argument balancers",
    "retryThrottling": "each service has a retry budget, which cannot be changed",
    "healthCheckConfig": "the pool learns from the topology which providers are unhealthy",
    "hedgingPolicy": "calls are not sent to several providers at once",
    "maxRequestMessageBytes": "use the channel option grpc.max_send_message_length",
    "maxResponseMessageBytes": "use the channel option grpc.max_receive_message_length",
}


class MethodConfig(NamedTuple):
    """The configuration of the calls of one method.

    Attributes:
        retry: Which calls are retried; None for none.
        timeout: The most seconds that a call may take; a caller may set less.
        wait_for_ready: The default for calls that do not set it.
    """

    retry: RetryPolicy | None = DEFAULT_POLICY
    timeout: float | None = None
    wait_for_ready: bool | None = None

    def without_retry(self) -> MethodConfig:
        return self._replace(retry=None)


class ServiceConfig:
    """The configuration of all methods that a pool calls.

    The format is that of gRPC (gRFC A6, service_config.proto): `methodConfig` is a list of
    entries. An entry applies to the methods under `name`, by full service name and method, by
    service, or by `{}` for all; only the most specific entry applies. An entry may set `timeout`,
    `waitForReady` and `retryPolicy` (`maxAttempts`, 1 to turn retries off; and
    `retryableStatusCodes`). The backoffs of a `retryPolicy` are validated but not used: a retry
    goes at once to a provider that the call has not tried yet, and ends with the last provider.

    Args:
        config: JSON text, or the object that it parses to; None for the defaults.

    Raises:
        ServiceConfigError: If it is malformed, or sets a field that the pool does not support.
    """

    def __init__(self, config: str | Mapping[str, Any] | None = None) -> None:
        self._methods: dict[tuple[str, str], MethodConfig] = {}
        if isinstance(config, str):
            import json  # loads slowly

            try:
                config = json.loads(config)
            except ValueError as error:
                raise ServiceConfigError("", f"not JSON: {error}") from None
        root = _object("", {} if config is None else config, {"methodConfig"})
        for number, entry in enumerate(_list("methodConfig", root.get("methodConfig"))):
            self._add(f"methodConfig[{number}]", entry)

    def for_method(self, method: str) -> MethodConfig:
        """Returns the configuration of a method.

        Args:
            method: `/package.Service/Method`, as in a generated stub.
        """
        service, _, name = method.lstrip("/").rpartition("/")
        for key in ((service, name), (service, ""), ("", "")):
            found = self._methods.get(key)
            if found is not None:
                return found
        return MethodConfig()

    def _add(self, where: str, entry: Any) -> None:
        found = _object(where, entry, {"name", "timeout", "waitForReady", "retryPolicy"})
        wait = found.get("waitForReady")
        if wait is not None and not isinstance(wait, bool):
            raise ServiceConfigError(f"{where}.waitForReady", "must be true or false")
        timeout, retry = found.get("timeout"), found.get("retryPolicy")
        config = MethodConfig(
            DEFAULT_POLICY if retry is None else _policy(f"{where}.retryPolicy", retry),
            None if timeout is None else _seconds(f"{where}.timeout", timeout),
            wait,
        )
        for number, name in enumerate(_list(f"{where}.name", found.get("name"))):
            self._add_name(f"{where}.name[{number}]", name, config)

    def _add_name(self, where: str, name: Any, config: MethodConfig) -> None:
        found = _object(where, name, {"service", "method"})
        key = (found.get("service") or "", found.get("method") or "")
        if not all(isinstance(part, str) for part in key):
            raise ServiceConfigError(where, "service and method must be text")
        if key[1] and not key[0]:
            raise ServiceConfigError(where, "a method needs its service")
        if key in self._methods:
            raise ServiceConfigError(where, "was configured before")
        self._methods[key] = config


def _policy(where: str, value: Any) -> RetryPolicy | None:
    known = {
        "maxAttempts", "initialBackoff", "maxBackoff", "backoffMultiplier", "retryableStatusCodes",
    }  # fmt: skip
    found = _object(where, value, known)
    for key in ("initialBackoff", "maxBackoff"):
        if key in found:
            _seconds(f"{where}.{key}", found[key])
    multiplier = found.get("backoffMultiplier", 1)
    if isinstance(multiplier, bool) or not isinstance(multiplier, int | float) or multiplier <= 0:
        raise ServiceConfigError(f"{where}.backoffMultiplier", "must be a positive number")
    attempts = found.get("maxAttempts")
    if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
        raise ServiceConfigError(
            f"{where}.maxAttempts", "must be the number of all attempts; 1 turns retries off"
        )
    if attempts == 1:
        return None
    codes = found.get("retryableStatusCodes")
    if codes is None:
        return RetryPolicy(min(attempts, MAX_ATTEMPTS))
    return RetryPolicy(min(attempts, MAX_ATTEMPTS), _codes(f"{where}.retryableStatusCodes", codes))


def _codes(where: str, value: Any) -> frozenset[StatusCode]:
    chosen = set()
    for name in _list(where, value):
        code = None
        if isinstance(name, str | int) and not isinstance(name, bool):
            code = _CODES.get(name.upper() if isinstance(name, str) else name)
        if code is None:
            raise ServiceConfigError(where, f"{name!r} is not a status of gRPC")
        if code in {StatusCode.OK, StatusCode.CANCELLED}:
            raise ServiceConfigError(where, f"a call that ended {code.name} cannot be retried")
        chosen.add(code)
    if not chosen:
        raise ServiceConfigError(where, "must name a status")
    return frozenset(chosen)


def _object(where: str, value: Any, known: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ServiceConfigError(where, "must be an object")
    for key in value:
        if key not in known:
            raise ServiceConfigError(
                f"{where}.{key}".lstrip("."), _INSTEAD.get(key, "is not known here")
            )
    return value


def _list(where: str, value: Any) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise ServiceConfigError(where, "must be a list")
    return list(value)


def _seconds(where: str, value: Any) -> float:
    match = re.fullmatch(_DURATION, value) if isinstance(value, str) else None
    if match is None or float(match[1]) <= 0:
        raise ServiceConfigError(where, 'must be a duration as "1.5s"')
    return float(match[1])
