"""What all methods of `CertificateAuthority` need: its session, opened anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from aegis_certs._ca.session import CASession, open_session
from aegis_certs._time import utc_or_now


class Opening:
    """Holds a session, whose key is used again in the next one."""

    def __init__(self, session: CASession) -> None:
        self._session = session

    @contextmanager
    def _open(self, at: datetime | None) -> Iterator[CASession]:
        known = self._session
        with open_session(known.store, utc_or_now(at), known.passphrase, known) as session:
            yield session
            self._session = session
