"""What our own calls tell of an endpoint, and how long it is left alone for it: pure."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from aegis_discovery._address import split_address
from aegis_discovery._calls.stats import EndpointState
from aegis_discovery.errors import InvalidAddressError

ChannelT = TypeVar("ChannelT")

FIRST_BACKOFF = 0.25
"""Seconds that an endpoint is left alone when a call did not reach it: a restart takes as long."""

FIRST_EJECTION = 1.0
"""Seconds that an endpoint is ejected at first; it was reached, and needs longer to get well."""

MAX_PAUSE = 10.0
"""Seconds at most, each doubled up to it; a probe then stays open for as long, so that a provider
that was frozen is back as soon as it runs."""

FAILURES = 5
"""Consecutive failures that eject an endpoint, as in Envoy and Istio."""

SILENCE = 1.0
"""Seconds without any answer, while calls wait, that eject an endpoint."""

SLOW = 4.0
"""Silence is at least this many times the usual time of an answer, so that a service whose calls
take seconds is not taken for a frozen one."""

_LEARN = 0.25
"""The weight of the latest answer in the usual time: a few answers settle it."""

_QUICK = SILENCE / SLOW
"""Seconds of an answer that need not be learned from: the usual time is nothing then."""


class Standing:
    """How an endpoint stands with us.

    It is in use, or out: left alone until a probe or a call was answered. Out are those that a
    call did not reach, and those ejected for failing or being silent.

    All times are monotonic seconds. What calls touch is a flag, a float or a set, each changed
    in one step, so threads need no lock for it. The sets serve as exact counters.

    Attributes:
        out: Whether it is left alone.
        ejected: Whether it is out although calls reach it.
        troubled: Whether anything speaks against it, so that an answer is worth noting.
        pause: Seconds of the present or latest time out; 0 once a call was answered.
        waiting: The calls under way that wait for their one response, or something for each.
        streaming: The same of calls that stream, which may be silent for long.
        silent_at: From when on it is silent, if calls wait and none is answered.
    """

    __slots__ = (
        "_failures", "_in_vain", "_in_vain_until", "_pace", "_probe_at", "_probing", "ejected",
        "out", "pause", "silent_at", "streaming", "troubled", "waiting",
    )  # fmt: skip

    def __init__(self) -> None:
        self.out = self.ejected = self.troubled = False
        self.pause = 0.0
        self.waiting: set[object] = set()
        self.streaming: set[object] = set()
        self.silent_at = 0.0
        self._failures = 0
        self._in_vain = 0.0
        self._in_vain_until = 0.0
        self._pace = 0.0
        self._probe_at = 0.0
        self._probing = False

    @property
    def under_way(self) -> int:
        """Our own calls to it that have not ended."""
        return len(self.waiting) + len(self.streaming)

    def asked(self, now: float, call: object) -> None:
        """Notes a call that waits for its one response, until it is taken off again."""
        if not self.waiting:  # what is asked nothing has nothing to answer
            self.silent_at = now + (self._pace * SLOW or SILENCE)
        self.waiting.add(call)

    def answered(self, began: float, now: float) -> None:
        """Notes the response to a call that began then."""
        self.silent_at = now + SILENCE
        if self._pace or now - began > _QUICK:
            self._learn(now - began)
            self.heard(now)
        if self.troubled:
            self.succeeded()

    def heard(self, now: float) -> None:
        """Notes an answer that says no more than that the provider runs."""
        self.silent_at = now + (self._pace * SLOW or SILENCE)

    def _learn(self, took: float) -> None:
        pace = self._pace + (took - self._pace) * _LEARN
        self._pace = pace if pace > _QUICK else 0.0

    def succeeded(self) -> None:
        """Takes it back into use: the provider answered a call."""
        self.out = self.ejected = self.troubled = False
        self.pause = 0.0
        self.reset_failures()

    def unreached(self, now: float) -> None:
        """Notes a call that did not reach the provider; it is left alone at once."""
        if self.out and now < self._probe_at:
            return  # calls that were under way together fail together: that is one failure
        self._leave_out(now, FIRST_BACKOFF)

    def failed(self) -> bool:
        """Notes a call that failed at the provider; tells whether it has failed too often."""
        self.troubled = True
        self._failures += 1
        return self._failures >= FAILURES and not self.out

    def given_up(self, began: float, now: float) -> bool:
        """Notes that a caller stopped waiting; tells whether callers waited in vain for too long.

        Who gives up before silence shows would else call a frozen provider for ever. Two who wait
        at the same time wait once.
        """
        self.troubled = True
        self._in_vain += max(now - max(began, self._in_vain_until), 0.0)
        self._in_vain_until = now
        return self._in_vain >= (self._pace * SLOW or SILENCE) and not self.out

    def silent(self, now: float) -> bool:
        """Tells whether calls wait for answers, and none came for too long."""
        return now >= self.silent_at and bool(self.waiting)

    def eject(self, now: float) -> None:
        """Leaves it alone."""
        self._leave_out(now, FIRST_EJECTION)
        self.ejected = True

    def reset_failures(self) -> None:
        """Forgets its failures, where it cannot be ejected."""
        self._failures = 0
        self._in_vain = 0.0

    def take_probe(self, now: float) -> bool:
        """Tells whether it is time to see if it is back; only one may look at a time."""
        if self._probing or now < self._probe_at:
            return False
        self._probing = True
        return True

    def probed(self, alive: bool, now: float) -> None:
        """Notes how the probe ended. Not before a call was answered is its past forgotten."""
        self._probing = False
        if not self.out:
            return
        if alive:
            self.out = self.ejected = False
            self.reset_failures()
            self.heard(now)
        else:
            self._leave_out(now, FIRST_BACKOFF)

    def _leave_out(self, now: float, first: float) -> None:
        self.pause = min(max(self.pause * 2, first), MAX_PAUSE)
        self._probe_at = now + self.pause
        self.out = self.troubled = True


class Endpoint(Standing, Generic[ChannelT]):
    """One provider at one address: its channel, and how it stands with us.

    Attributes:
        channel: Set by the shell when the first call goes there.
        callables: The channel's methods, by the stub callables that use them.
        is_dialable: Whether its address is one; what a node publishes need not be.
    """

    __slots__ = ("__weakref__", "address", "callables", "channel", "is_dialable", "node_id")

    def __init__(self, node_id: str, address: str) -> None:
        super().__init__()
        self.node_id = node_id
        self.address = address
        self.is_dialable = _is_dialable(address)
        self.channel: ChannelT | None = None
        self.callables: dict[object, Any] = {}

    def __repr__(self) -> str:
        state = f" {self.state} for {self.pause:g}s" if self.out else ""
        return f"<Endpoint {self.node_id} at {self.address}{state}>"

    @property
    def state(self) -> EndpointState:
        """Whether calls go there, as far as they tell themselves."""
        if not self.out:
            return EndpointState.READY
        return EndpointState.EJECTED if self.ejected else EndpointState.UNREACHED


def _is_dialable(address: str) -> bool:
    try:
        split_address(address)
    except InvalidAddressError:
        return False
    return True
