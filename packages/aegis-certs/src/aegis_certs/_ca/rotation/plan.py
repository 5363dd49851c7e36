"""When a CA rotates itself. Pure: the time, the state and what the mesh says are arguments.

    point                      of the root's life   what happens then
    prepare                    2/3                  the next root is made, and all trust both
    activate, at the earliest  3/4                  if every live node says that it trusts both
    activate, at the latest    11/12                whoever does not is named
    retire                                          no certificate or token of the old root is valid

The time from `prepare` to the earliest `activate` is for processes that nobody sees: clients, and
nodes that are off. If `prepare` was early or late, such as by hand, the two points of `activate`
are a quarter and half of the time that the root then had left; the latest is never before 11/12.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Self

from cryptography import x509

from aegis_certs._ca.rotation_state import RotationPhase, RotationState
from aegis_certs._time import format_utc
from aegis_certs._x509.keys import issuer_key_id

_PREPARE = 2 / 3
_LATEST = 11 / 12
_CHECKS = 1000  # how often the mesh is looked at in the life of a root
_SHORTEST_CHECK, _LONGEST_CHECK = timedelta(seconds=1), timedelta(minutes=1)


class RotationStep(StrEnum):
    """A step of a rotation."""

    PREPARE = "prepare"
    ACTIVATE = "activate"
    RETIRE = "retire"


@dataclass(frozen=True, slots=True)
class MeshView:
    """What an issuer sees of its mesh.

    Attributes:
        bundles: The nodes that are alive, and the fingerprint of the trust bundle that the record
            of each states.
        issuers: The nodes that are alive, and the key identifier of the CA that issued the
            certificate that each uses, in hexadecimal.
        unsigned: The peers that sign nothing, such as Go nodes. They get no documents, so a new
            root has to be copied to them.
    """

    bundles: Mapping[str, str] = field(default_factory=dict)
    issuers: Mapping[str, str] = field(default_factory=dict)
    unsigned: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        bundles: Mapping[str, str],
        certificates: Mapping[str, x509.Certificate],
        unsigned: Iterable[str] = (),
    ) -> Self:
        """A view in which the certificates themselves are given."""
        issuers = {
            node_id: (issuer_key_id(certificate) or b"").hex()
            for node_id, certificate in certificates.items()
        }
        return cls(bundles, issuers, frozenset(unsigned))


@dataclass(frozen=True, slots=True)
class RotationDecision:
    """What to do now.

    Attributes:
        step: The step to do now; None if there is none.
        lagging: The nodes that are not known to trust the new root, if the step is `activate`, or
            would be without them.
        blocked: Why this CA does not rotate itself although a step is due, as a sentence with the
            next step for a person; empty otherwise.
        check_at: When to decide again, at the latest.
    """

    step: RotationStep | None
    check_at: datetime
    lagging: tuple[str, ...] = ()
    blocked: str = ""


class RotationPlan:
    """The dates of the rotation of a CA, and what is to be done at a time.

    Args:
        state: The state of the rotation.
    """

    def __init__(self, state: RotationState) -> None:
        self._state = state
        self._life = state.ends_at - state.issued_at
        left = state.ends_at - self._prepared_at
        latest = max(state.issued_at + self._life * _LATEST, self._prepared_at + left / 2)
        self._latest = max(min(latest, state.ends_at), self._prepared_at)
        self._earliest = min(self._prepared_at + max(left, timedelta(0)) / 4, self._latest)

    def __repr__(self) -> str:
        return f"RotationPlan({self._state.phase}, next {self.next_step} at {self.next_at})"

    @property
    def prepare_at(self) -> datetime:
        """When the next root is made."""
        return self._state.issued_at + self._life * _PREPARE

    @property
    def activate_from(self) -> datetime:
        """When the next root issues at the earliest: if every live node trusts it."""
        return self._earliest

    @property
    def activate_by(self) -> datetime:
        """When the next root issues at the latest, whoever trusts it."""
        return self._latest

    @property
    def retire_by(self) -> datetime:
        """When the old root is removed at the latest: it has expired."""
        return self._state.ends_at

    @property
    def next_step(self) -> RotationStep:
        """The step after the present phase."""
        return _NEXT[self._state.phase]

    @property
    def next_at(self) -> datetime:
        """When the next step is possible at the earliest."""
        if self.next_step is RotationStep.PREPARE:
            return self.prepare_at
        if self.next_step is RotationStep.ACTIVATE:
            return self.activate_from
        return self._state.old_used_until or self._prepared_at

    def decide(self, view: MeshView, at: datetime) -> RotationDecision:
        """The step that is due at a time, as the mesh is then."""
        if self.next_step is RotationStep.PREPARE:
            return self._decide_prepare(view, at)
        if self.next_step is RotationStep.ACTIVATE:
            return self._decide_activate(view, at)
        return self._decide_retire(view, at)

    @property
    def _prepared_at(self) -> datetime:
        return self._state.prepared_at or self.prepare_at

    def _decide_prepare(self, view: MeshView, at: datetime) -> RotationDecision:
        if at < self.prepare_at:
            return self._wait(at, until=self.prepare_at)
        if reason := self._obstacle(view):
            return self._wait(at, blocked=self._by_hand(reason, "rotate-ca prepare"))
        return self._do(RotationStep.PREPARE, at)

    def _decide_activate(self, view: MeshView, at: datetime) -> RotationDecision:
        lagging = tuple(
            sorted(node for node, seen in view.bundles.items() if not self._state.trusts(seen))
        )
        if at < self._earliest:
            return self._wait(at, until=self._earliest)
        if reason := self._obstacle(view):
            blocked = self._by_hand(reason, "rotate-ca activate --confirm")
            return self._wait(at, blocked=blocked, lagging=lagging)
        if lagging and at < self._latest:
            return self._wait(at, until=self._latest, lagging=lagging)
        return self._do(RotationStep.ACTIVATE, at, lagging)

    def _decide_retire(self, view: MeshView, at: datetime) -> RotationDecision:
        if at > self._state.ends_at:
            return self._do(RotationStep.RETIRE, at)
        using = any(issuer == self._state.old_key_id for issuer in view.issuers.values())
        if self._state.old_used_until is not None or using:
            return self._wait(at)
        if view.unsigned:
            # Their certificates cannot be seen; the end of the root ends all of them.
            return self._wait(at, until=self._state.ends_at)
        return self._do(RotationStep.RETIRE, at)

    def _obstacle(self, view: MeshView) -> str:
        if not self._state.is_root:
            return "its root is not in the directory"
        if view.unsigned:
            names = ", ".join(sorted(view.unsigned))
            return f"peers that get no documents have to be given the new one by hand ({names})"
        return ""

    def _by_hand(self, reason: str, command: str) -> str:
        end = format_utc(self._state.ends_at)
        return (
            f"the CA {self._state.old} ends at {end} and does not rotate itself, since {reason}; "
            f"rotate it by hand before then (`aegis-certs {command}` is the next step)"
        )

    def _wait(
        self,
        at: datetime,
        *,
        until: datetime | None = None,
        lagging: tuple[str, ...] = (),
        blocked: str = "",
    ) -> RotationDecision:
        pause = min(max(self._life / _CHECKS, _SHORTEST_CHECK), _LONGEST_CHECK)
        check_at = at + pause  # also before a known date: somebody may do a step by hand
        return RotationDecision(
            None, check_at if until is None else min(until, check_at), lagging, blocked
        )

    def _do(
        self, step: RotationStep, at: datetime, lagging: tuple[str, ...] = ()
    ) -> RotationDecision:
        return RotationDecision(step, at, lagging)


_NEXT = {
    RotationPhase.NONE: RotationStep.PREPARE,
    RotationPhase.PREPARED: RotationStep.ACTIVATE,
    RotationPhase.ACTIVATED: RotationStep.RETIRE,
}
