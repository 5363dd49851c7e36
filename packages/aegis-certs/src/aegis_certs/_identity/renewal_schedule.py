"""When to renew a certificate, and when to retry. Pure: time and randomness are arguments."""

from __future__ import annotations

import random as _random
from datetime import datetime, timedelta

from cryptography import x509

from aegis_certs._time import isoformat
from aegis_certs._x509.validity import issued_at

_DUE = 2 / 3
_JITTER = 1 / 20  # of the life, so that nodes that started together do not renew together
_RETRIES = 12  # about how many retries fit into the last third of the life
_LONGEST_EARLY = 60.0
_FIRST_RETRY = 1.0
_LAST_RETRY = 3600.0


class RenewalSchedule:
    """When to renew one certificate.

    It is due after two thirds of its life, minus a jitter of up to a twentieth of its life. The
    life is counted from the time of issue, not from the backdated start.

    Args:
        certificate: The leaf.
        random: The random generator for the jitter.
    """

    def __init__(
        self, certificate: x509.Certificate, *, random: _random.Random | None = None
    ) -> None:
        self._random = random or _random.Random()
        end = certificate.not_valid_after_utc
        issued = min(issued_at(certificate.not_valid_before_utc), end)
        self._life = end - issued
        self._due_at = issued + self._life * (_DUE - _JITTER * self._random.random())

    def __repr__(self) -> str:
        return f"RenewalSchedule(due_at={isoformat(self._due_at)})"

    @property
    def due_at(self) -> datetime:
        """When it is due (UTC); this never changes."""
        return self._due_at

    def seconds_until_due(self, at: datetime) -> float:
        """How long to wait from this time; 0 if it is due."""
        return max(0.0, (self._due_at - at) / timedelta(seconds=1))

    def early_after(self) -> float:
        """How long to wait for a renewal before it is due, in seconds, after the CA was replaced.

        It is a random part of a twentieth of the life, at most of a minute, so that not all members
        of a mesh ask their issuer at once.
        """
        longest = min(self._life.total_seconds() * _JITTER, _LONGEST_EARLY)
        return longest * self._random.random()

    def retry_after(self, failures: int) -> float:
        """How long to wait after this many consecutive failures, in seconds.

        The wait doubles from a second to a twelfth of the last third of the life, at most an
        hour, with a jitter of a fifth. Retries never stop: a CA can renew an expired leaf too.
        """
        third = self._life.total_seconds() * (1 - _DUE)
        longest = min(max(_FIRST_RETRY, third / _RETRIES), _LAST_RETRY)
        wait = min(longest, _FIRST_RETRY * 2.0 ** min(max(failures - 1, 0), 20))
        return wait * self._random.uniform(0.8, 1.2)
