"""Decides when an identity is renewed, and which new files are good enough to go on with."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from aegis_certs import CertsError, IdentitySource, RenewalSchedule, RevocationList, TLSConfig
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

_log = logging.getLogger("aegis.identity")

LOOK = 2.0
"""Seconds between two looks at the files: a change is taken up within a few seconds."""


class IdentityEventKind(StrEnum):
    """What happened to the identity of this process."""

    CHANGED = "changed"
    REFUSED = "refused"
    RENEWAL_FAILED = "renewal_failed"
    REVOCATIONS = "revocations"


@dataclass(frozen=True, slots=True)
class IdentityEvent:
    """One step in the life of an identity.

    Attributes:
        kind: `changed` (use `tls` from now on), `refused` (new files are no good; the old identity
            stays), `renewal_failed` (tried again later) or `revocations` (another list counts).
        tls: The identity that counts.
        reason: Why, where something was refused or failed.
    """

    kind: IdentityEventKind
    tls: TLSConfig
    reason: str = ""


class IdentityRotator:
    """Watches over one identity. It blocks on files, but for moments only.

    A certificate is renewed at two thirds of its life. Where that fails it is tried again, ever
    more slowly and even past its end: the CA may come back.

    Args:
        source: Where the identity comes from.
        tls: The identity that was loaded from it.
        clock: Unix time in seconds.
        rng: Spreads renewals, so that nodes that were issued together do not renew together.
    """

    def __init__(
        self,
        source: IdentitySource,
        tls: TLSConfig,
        *,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._source = source
        self._clock = clock
        self._rng = rng or random.Random()
        self._failures = 0
        self._complaints: dict[str, str] = {}
        self.tls = tls
        self.revocations = RevocationList.empty()
        self._plan()

    @property
    def renew_at(self) -> float:
        """When the next renewal is tried (Unix seconds)."""
        return self._renew_at

    def change_identity(self, tls: TLSConfig) -> None:
        """Goes on with an identity that came from elsewhere."""
        if tls is not self.tls:
            self.tls = tls
            self._plan()

    def poll(self) -> list[IdentityEvent]:
        """Looks at the files and at the clock; returns what happened. Call it every few seconds.

        Whatever is wrong with the files, it raises nothing: one look that fails costs nothing of
        what the others found.
        """
        events = []
        for look in (self._load_changed, self._renew, self._read_revocations):
            try:
                event = look()
            except CertsError as error:
                event = self._refuse(look.__name__, str(error))
            except Exception as error:  # noqa: BLE001 - a node outlives any file, and the disk
                reason = f"{type(error).__name__}: {error}"
                event = self._refuse(look.__name__, reason, cause=error)
            else:
                self._complaints.pop(look.__name__, None)
            if event is not None:
                events.append(event)
        return events

    def _load_changed(self) -> IdentityEvent | None:
        fresh = self._source.poll()
        if fresh is None or fresh == self.tls:
            return None
        reason = self._objection(fresh)
        return self._refuse("_load_changed", reason) if reason else self._take(fresh)

    def _renew(self) -> IdentityEvent | None:
        due = self._clock() >= self._renew_at
        # After a rotation of the CA a new leaf is wanted before its time; once, not at each look.
        if not due and (self._failures or not self._source.issuer_replaced()):
            return None
        try:
            fresh = self._source.renew()
        except CertsError as error:
            return self._retry(str(error))
        except Exception as error:  # noqa: BLE001 - as in `poll`, but it is tried again
            _log.exception("renewing the certificate of %s failed", self.tls.node_id)
            return self._retry(f"{type(error).__name__}: {error}")
        if fresh is None:
            return self._retry(
                "the key of the CA is not at hand, or the CA itself ends then; "
                "renew it where that key is"
            )
        reason = self._objection(fresh)
        return self._retry(reason) if reason else self._take(fresh)

    def _read_revocations(self) -> IdentityEvent | None:
        known, self.revocations = self.revocations, self._source.revocations()
        if known is self.revocations or not (len(known) or len(self.revocations)):
            return None
        return IdentityEvent(IdentityEventKind.REVOCATIONS, self.tls)

    def _objection(self, fresh: TLSConfig) -> str:
        """Says why a process cannot go on with files that are in order by themselves."""
        tls = self.tls
        if fresh.node_id != tls.node_id:
            return f"they are those of {fresh.node_id}; put back those of {tls.node_id}"
        if fresh.trust_domain != tls.trust_domain:
            return (
                f"their trust domain is {fresh.trust_domain}, this process is of "
                f"{tls.trust_domain}; put back the old files, or start it anew"
            )
        if not _usages(fresh.certificate) >= _usages(tls.certificate):
            return "they prove less than the old ones: a client only, or a server only"
        if self.revocations.is_revoked(fresh.certificate, fresh.chain[1:]):
            return "their certificate is revoked; issue another one"
        return ""

    def _take(self, fresh: TLSConfig) -> IdentityEvent:
        _log.info("%s goes on with a certificate that ends %s", fresh.node_id, fresh.not_after)
        self.tls = fresh
        self._failures = 0
        self._plan()
        return IdentityEvent(IdentityEventKind.CHANGED, fresh)

    def _refuse(
        self, look: str, reason: str, *, cause: Exception | None = None
    ) -> IdentityEvent | None:
        if reason == self._complaints.get(look):
            return None
        self._complaints[look] = reason
        message = "%s keeps its identity; new files are no good: %s"
        _log.error(message, self.tls.node_id, reason, exc_info=cause)
        return IdentityEvent(IdentityEventKind.REFUSED, self.tls, reason)

    def _retry(self, reason: str) -> IdentityEvent:
        self._failures += 1
        wait = self._schedule.retry_after(self._failures)
        self._renew_at = self._clock() + wait
        _log.warning(
            "%s could not renew its certificate, which ends %s; next try in %.0f s: %s",
            self.tls.node_id,
            self.tls.not_after,
            wait,
            reason,
        )
        return IdentityEvent(IdentityEventKind.RENEWAL_FAILED, self.tls, reason)

    def _plan(self) -> None:
        self._schedule = RenewalSchedule(self.tls.certificate, random=self._rng)
        self._renew_at = self._schedule.due_at.timestamp()


_BOTH = frozenset({ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH})


def _usages(certificate: x509.Certificate) -> frozenset[x509.ObjectIdentifier]:
    """Which ends of a connection a certificate proves; one that names none proves both."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return _BOTH
    any_usage = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in found
    return _BOTH if any_usage else _BOTH.intersection(found)
