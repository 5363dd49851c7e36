"""The results of the demo; a check that fails raises a `DemoError`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aegis_cli.errors import DemoError

FAIR_SHARE = 0.8
"""The least part of an even share that a provider must get; round robin gives it nearly all."""


@dataclass(frozen=True, slots=True)
class Member:
    """A node of the demo."""

    id: str
    pid: int
    address: str


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls of one process.

    Attributes:
        caller: The id of the caller.
        by_provider: How many calls each provider answered.
        seen_callers: The ids that the providers read from the certificates of the calls.
        failures: The reasons of failed calls.
        loaded_aegis_core: Whether the process of the caller has imported it.
    """

    caller: str
    by_provider: Mapping[str, int]
    seen_callers: Sequence[str]
    failures: Sequence[str]
    loaded_aegis_core: bool

    @property
    def answered(self) -> int:
        return sum(self.by_provider.values())

    @property
    def total(self) -> int:
        return self.answered + len(self.failures)


def check_calls(calls: Sequence[Calls], *, client: str) -> None:
    """Checks what holds for all calls, whatever happens to providers meanwhile."""
    for result in calls:
        if result.failures:
            count, reason = len(result.failures), result.failures[0]
            raise DemoError(f"{count} calls of {result.caller} failed, the first with: {reason}")
        if list(result.seen_callers) != [result.caller]:
            seen = ", ".join(result.seen_callers) or "no caller"
            raise DemoError(f"{result.caller} made calls, and the providers saw {seen} instead")
        if result.caller == client and result.loaded_aegis_core:
            raise DemoError("the client imported aegis_core; aegis_discovery should be enough")


def check_balance(calls: Sequence[Calls], *, times: int, providers: Sequence[str]) -> None:
    """Checks that all calls were answered, and that each provider got its share."""
    for result in calls:
        least = min(result.by_provider.get(provider, 0) for provider in providers)
        if result.answered != times or least < FAIR_SHARE * times / len(providers):
            shares = ", ".join(f"{provider} {n}" for provider, n in result.by_provider.items())
            raise DemoError(f"the {times} calls of {result.caller} were not balanced: {shares}")
