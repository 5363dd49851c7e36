"""What the demo finds out, and what it promises about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aegis_cli._mesh.status import MeshFacts
from aegis_cli.errors import DemoError

FAIR_SHARE = 0.8
"""How much of an even share each provider must get at least; in turn, it gets nearly all of it."""


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
        caller: Who called.
        by_provider: How many calls each provider answered.
        providers_say: Whom the providers saw calling, by certificate.
        failures: Of calls that failed, why.
        loaded_aegis_core: Whether the caller's process has imported it.
    """

    caller: str
    by_provider: Mapping[str, int]
    providers_say: Sequence[str]
    failures: Sequence[str]
    loaded_aegis_core: bool

    @property
    def answered(self) -> int:
        """How many calls were answered."""
        return sum(self.by_provider.values())


@dataclass(frozen=True, slots=True)
class Kill:
    """The end of a provider under load.

    Attributes:
        victim: Who was killed.
        noticed_after: Seconds until everybody held it for failed.
        calls: What was called meanwhile.
        mesh: What is left.
    """

    victim: Member
    noticed_after: float
    calls: Sequence[Calls]
    mesh: MeshFacts


def check_calls(calls: Sequence[Calls], *, client: str) -> None:
    """Checks what holds of all calls, whatever happens to providers meanwhile.

    Raises:
        DemoError: If it does not.
    """
    for made in calls:
        if made.failures:
            count, why = len(made.failures), made.failures[0]
            raise DemoError(f"{count} calls of {made.caller} failed, the first with: {why}")
        if list(made.providers_say) != [made.caller]:
            seen = ", ".join(made.providers_say) or "nobody"
            raise DemoError(f"the providers took the calls of {made.caller} for those of {seen}")
        if made.caller == client and made.loaded_aegis_core:
            raise DemoError("the client imported aegis_core; aegis_discovery should be enough")


def check_balance(calls: Sequence[Calls], *, times: int, providers: Sequence[str]) -> None:
    """Checks that all calls were answered, and by each provider its share.

    Raises:
        DemoError: If not.
    """
    for made in calls:
        least = min(made.by_provider.get(provider, 0) for provider in providers)
        if made.answered != times or least < FAIR_SHARE * times / len(providers):
            shares = ", ".join(f"{provider} {n}" for provider, n in made.by_provider.items())
            raise DemoError(f"the {times} calls of {made.caller} were not balanced: {shares}")
