"""When a certificate is renewed, and when again after a failure. Pure: clock and dice are given."""

from __future__ import annotations

import random as _random
from datetime import datetime, timedelta

from cryptography import x509

from aegis_certs._x509.validity import BACKDATE

_DUE = 2 / 3
_JITTER = 1 / 20  # of the life: so that nodes that started at once do not renew at once
_RETRIES = 12  # about as many fit into the last third of the life, once they are far apart
_FIRST_RETRY = 1.0
_LAST_RETRY = 3600.0


class RenewalSchedule:
    """When to renew one certificate.

    It is due at two thirds of its life, less a jitter of up to a twentieth of it. The life is
    counted from the moment of issue, not from the backdated start: otherwise a certificate of a
    few minutes would be due when it is new.

    Args:
        certificate: The leaf.
        random: The dice for the jitter.
    """

    def __init__(
        self, certificate: x509.Certificate, *, random: _random.Random | None = None
    ) -> None:
        self._random = random or _random.Random()
        end = certificate.not_valid_after_utc
        issued = min(certificate.not_valid_before_utc + BACKDATE, end)
        self._life = end - issued
        self._due_at = issued + self._life * (_DUE - _JITTER * self._random.random())

    def __repr__(self) -> str:
        return f"RenewalSchedule(due_at={self._due_at:%Y-%m-%dT%H:%M:%SZ})"

    @property
    def due_at(self) -> datetime:
        """When it is due (UTC); the same at every look."""
        return self._due_at

    def seconds_until_due(self, at: datetime) -> float:
        """How long to wait at this moment; 0 where it is due."""
        return max(0.0, (self._due_at - at) / timedelta(seconds=1))

    def retry_after(self, failures: int) -> float:
        """How long to wait after this many failures in a row, in seconds.

        It doubles from a second to a twelfth of the last third of the life, an hour at most,
        give or take a fifth. It never gives up: a node may be renewed past its end too.
        """
        third = self._life.total_seconds() * (1 - _DUE)
        longest = min(max(_FIRST_RETRY, third / _RETRIES), _LAST_RETRY)
        wait = min(longest, _FIRST_RETRY * 2.0 ** min(max(failures - 1, 0), 20))
        return wait * self._random.uniform(0.8, 1.2)
