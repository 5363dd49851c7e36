"""Decides when an identity is renewed, and whether changed files are accepted."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import NamedTuple, Protocol

from aegis_certs import (
    CertsError,
    IdentitySource,
    LockTimeoutError,
    RenewalSchedule,
    RevocationList,
    TLSConfig,
    TrustBundle,
    needed_cas,
)

from aegis_discovery._runtime.log_limiter import LogLimiter
from aegis_discovery.errors import EnrolmentError

_log = logging.getLogger("aegis.identity")

POLL_INTERVAL = 2.0
"""Seconds between two polls of the files: a change is applied within a few seconds."""


class IdentityEventKind(StrEnum):
    """The kinds of identity events."""

    CHANGED = "changed"
    REFUSED = "refused"
    RENEWAL_FAILED = "renewal_failed"
    REVOCATIONS = "revocations"


class IdentityEvent(NamedTuple):
    """A change of an identity, or a failure to change it.

    Attributes:
        kind: `changed` (use `tls` now), `refused` (changed files were refused and the identity
            stays), `renewal_failed` (it is tried again later) or `revocations` (the revocation
            list changed).
        tls: The identity in use.
        reason: Why something was refused or failed.
    """

    kind: IdentityEventKind
    tls: TLSConfig
    reason: str = ""


class RemoteRenewal(Protocol):
    """Renews an identity at an issuer of the mesh. None of its methods blocks."""

    @property
    def is_possible(self) -> bool:
        """Whether an issuer is known."""

    @property
    def is_running(self) -> bool:
        """Whether a renewal was begun, and `result` did not return or raise yet."""

    def obstacle(self, tls: TLSConfig) -> str:
        """Returns why an identity cannot be renewed like this; empty if it can."""

    def begin(self, tls: TLSConfig) -> None:
        """Begins to ask for the successor of an identity."""

    def result(self) -> TLSConfig | None:
        """Returns the successor; None while issuers are asked.

        Raises:
            aegis_certs.LockTimeoutError: Another process renews this identity.
            EnrolmentError: No issuer gave a certificate.
        """


class Published(Protocol):
    """What the mesh publishes, as far as an identity depends on it."""

    @property
    def revocations(self) -> RevocationList:
        """What all published CRLs revoke: the same object until one of them changes."""

    def trusting(self, tls: TLSConfig) -> TLSConfig:
        """Returns an identity that trusts the published CAs, unless its files have them already."""

    def save(self) -> None:
        """Writes what has changed to the directory of the identity; it blocks."""


class IdentityRotator:
    """Renews one identity and reloads its files. It blocks on files, but only briefly.

    A certificate is renewed at two thirds of its lifetime: by the CA's key beside it, or else by an
    issuer of the mesh. A failed renewal is tried again with backoff, even after the certificate has
    expired: the CA may be available again. An issuer renews no expired certificate. After the CA
    was replaced, the certificate is renewed early: at once by a key beside it, and a little later
    by an issuer, which all members ask then.

    An identity is a leaf and a trust bundle, which change for different reasons: files, an issuer's
    answer, a published bundle. What is published is applied in the event loop while a poll runs in
    a thread. So each change is made from the identity in use, in one step under a lock, and none
    brings back what another has replaced.

    Args:
        source: The files of the identity.
        tls: The identity that was loaded from the source.
        remote: Asks issuers; None where there are none.
        clock: Unix time in seconds.
        rng: Jitter, so that certificates issued together are not renewed together.
        published: What the mesh publishes.
    """

    def __init__(
        self,
        source: IdentitySource,
        tls: TLSConfig,
        *,
        remote: RemoteRenewal | None = None,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
        published: Published | None = None,
    ) -> None:
        self._source = source
        self._remote = remote
        self._published = published
        self._changing = threading.Lock()
        self._asked_for = tls
        self._joined = (RevocationList.empty(), RevocationList.empty())
        self._clock = clock
        self._rng = rng or random.Random()
        self._failures = 0
        self._renew_at = 0.0
        self._is_early = False
        self._obstacle = ""
        self._log_limiter = LogLimiter(_log)
        self.tls = tls
        self.revocations = RevocationList.empty()
        self._schedule_renewal()

    @property
    def renew_at(self) -> float:
        """When the next renewal is due (Unix seconds)."""
        return self._renew_at

    def change_identity(self, tls: TLSConfig) -> None:
        """Continues with an identity from another source."""
        with self._changing:
            self._replace(tls)

    def poll(self) -> list[IdentityEvent]:
        """Checks the files and the clock; returns the events. Call it every few seconds.

        It raises no errors. If one of its checks fails, the events of the others are not lost.
        """
        events = []
        for check in (self._load_changed, self._renew, self._read_revocations, self._save):
            try:
                event = check()
            except CertsError as error:
                event = self._refuse(check.__name__, str(error))
            except Exception as error:  # noqa: BLE001 - no file or disk may stop a node
                reason = f"{type(error).__name__}: {error}"
                event = self._refuse(check.__name__, reason, error=error)
            else:
                self._log_limiter.forget(check.__name__)
            if event is not None:
                events.append(event)
        return events

    def apply_published(self) -> list[IdentityEvent]:
        """Uses what the mesh has published; returns the events. It does not block."""
        events = [
            self._join(None),
            self._change(lambda tls: tls, partial(self._refuse, "published")),
        ]
        return [event for event in events if event is not None]

    def _load_changed(self) -> IdentityEvent | None:
        found = self._source.poll(at=self._now())
        if found is None:
            return None
        return self._change(lambda _: found, partial(self._refuse, "_load_changed"))

    def _renew(self) -> IdentityEvent | None:
        self._warn_of_obstacle()
        if self._remote is not None and self._remote.is_running:
            return self._take_answer(self._remote)
        if not self._is_early and not self._failures and self._issuer_replaced():
            # After a CA rotation a new leaf is wanted early; it is tried once, not at each poll.
            self._is_early = True
            pause = 0.0 if self._source.issuer_replaced() else self._schedule.early_after()
            self._renew_at = min(self._renew_at, self._clock() + pause)
        if self._clock() < self._renew_at:
            return None
        try:
            fresh = self._source.renew(at=self._now())
        except CertsError as error:
            return self._retry(str(error))
        except Exception as error:  # noqa: BLE001 - as in `poll`, but it is tried again
            _log.exception("renewing the certificate of %s failed", self.tls.node_id)
            return self._retry(f"{type(error).__name__}: {error}")
        if fresh is None:
            return self._ask_issuers()
        issued = fresh
        return self._change(lambda _: issued, self._retry)

    def _warn_of_obstacle(self) -> None:
        """Says at the start that there will be no renewal; when one is due may be weeks away."""
        remote = self._remote
        if remote is None or not remote.is_possible or self._source.has_ca_key:
            return
        found = remote.obstacle(self.tls)
        if found and found != self._obstacle:
            line = "%s will not renew its certificate, which expires at %s, at an issuer: %s"
            _log.warning(line, self.tls.node_id, self.tls.not_after, found)
        self._obstacle = found

    def _issuer_replaced(self) -> bool:
        """Whether the CA of the leaf is not the one that issues now."""
        can_ask = self._remote is not None and self._remote.is_possible
        return self._source.issuer_replaced() or (can_ask and _root_replaced(self.tls))

    def _ask_issuers(self) -> IdentityEvent | None:
        remote, now = self._remote, self._clock()
        if remote is None or not remote.is_possible:
            return self._retry(
                "neither the CA's key nor an issuer of the mesh is available here; renew it where "
                "that key is, or run an issuer (`aegis node run --issuer`)"
            )
        if now >= self.tls.not_after.timestamp():
            return self._retry(
                "it has expired, and an issuer renews no expired certificate; enrol again with a "
                f"new token (`aegis certs token {self.tls.node_id}` where the CA's key is)"
            )
        if self._obstacle:
            return self._retry(self._obstacle)
        self._asked_for = self.tls
        remote.begin(self._asked_for)
        return None

    def _take_answer(self, remote: RemoteRenewal) -> IdentityEvent | None:
        try:
            fresh = remote.result()
        except LockTimeoutError:
            # Another process renews it; the next poll takes over its files, or this one asks.
            self._renew_at = self._clock() + self._schedule.retry_after(1)
            return None
        except (CertsError, EnrolmentError) as error:
            return self._retry(str(error))
        if fresh is None:
            return None
        answer, asked_for = fresh, self._asked_for
        event = self._change(lambda tls: _with_leaf_of(answer, tls, asked_for), self._retry)
        if event is not None and event.kind is IdentityEventKind.CHANGED:
            self._source.adopt(event.tls)
        return event

    def _read_revocations(self) -> IdentityEvent | None:
        return self._join(self._source.revocations(at=self._now()))

    def _join(self, own: RevocationList | None) -> IdentityEvent | None:
        """Joins the list in the files and the published one, each of which may have changed.

        Without a list, that in the files is the last one.
        """
        with self._changing:
            own = self._joined[0] if own is None else own
            known, before = self.revocations, self._joined[1]
            published = before if self._published is None else self._published.revocations
            if own is self._joined[0] and published is self._joined[1]:
                return None
            self._joined = own, published
            self.revocations = own.joined(published) if published.number is not None else own
        if not (len(known) or len(self.revocations)):
            return None
        return IdentityEvent(IdentityEventKind.REVOCATIONS, self.tls)

    def _trusting(self, tls: TLSConfig) -> TLSConfig:
        return tls if self._published is None else self._published.trusting(tls)

    def _save(self) -> None:
        if self._published is not None:
            self._published.save()

    def _objection(self, fresh: TLSConfig) -> str:
        """Returns why this process cannot use a valid identity; empty if it can."""
        tls = self.tls
        if fresh.node_id != tls.node_id:
            return f"they belong to {fresh.node_id}; put back those of {tls.node_id}"
        if fresh.trust_domain != tls.trust_domain:
            return (
                f"their trust domain is {fresh.trust_domain}, that of this process is "
                f"{tls.trust_domain}; put back the old files, or restart the process"
            )
        if not fresh.usages >= tls.usages:
            return "they allow fewer usages than the old ones; issue a certificate for both usages"
        if self.revocations.is_revoked(fresh.certificate, fresh.chain[1:]):
            return "their certificate is revoked; issue another one"
        return ""

    def _change(
        self,
        make: Callable[[TLSConfig], TLSConfig],
        refuse: Callable[[str], IdentityEvent | None],
    ) -> IdentityEvent | None:
        """Uses what is made of the identity in use, and trusts what is published."""
        with self._changing:
            before, fresh = self.tls, self._trusting(make(self.tls))
            if fresh == before:
                return None
            reason = self._objection(fresh)
            if not reason:
                self._replace(fresh)
                self._failures = 0
        if reason:
            return refuse(reason)
        self._log_limiter.forget("renewal")
        _log.info("%s uses a certificate that expires at %s", fresh.node_id, fresh.not_after)
        return IdentityEvent(IdentityEventKind.CHANGED, fresh)

    def _replace(self, fresh: TLSConfig) -> None:
        before, self.tls = self.tls, fresh
        if fresh is not before:
            self._schedule_renewal()

    def _refuse(
        self, check: str, reason: str, *, error: Exception | None = None
    ) -> IdentityEvent | None:
        line = "%s keeps its identity; changed files were refused: %s"
        is_new = self._log_limiter.log_change(
            logging.ERROR, check, reason, line, self.tls.node_id, reason, error=error
        )
        return IdentityEvent(IdentityEventKind.REFUSED, self.tls, reason) if is_new else None

    def _retry(self, reason: str) -> IdentityEvent:
        self._failures += 1
        wait = self._schedule.retry_after(self._failures)
        self._renew_at = self._clock() + wait
        self._log_limiter.warn(
            "renewal",
            reason,
            "%s could not renew its certificate, which expires at %s; next attempt in %.0f s: %s",
            self.tls.node_id,
            self.tls.not_after,
            wait,
            reason,
            now=self._clock(),
        )
        return IdentityEvent(IdentityEventKind.RENEWAL_FAILED, self.tls, reason)

    def _schedule_renewal(self) -> None:
        self._schedule = RenewalSchedule(self.tls.certificate, random=self._rng)
        self._renew_at = self._schedule.due_at.timestamp()
        self._is_early = False

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def _root_replaced(tls: TLSConfig) -> bool:
    """Whether a root signed the leaf that is not the first one of the trust bundle any more."""
    first = tls.bundle.certificates[0]
    issuer = tls.bundle.issuer_of(tls.certificate, tls.chain[1:])
    is_root = issuer is not None and issuer.subject == issuer.issuer
    return is_root and first.subject == first.issuer and issuer != first


def _with_leaf_of(answer: TLSConfig, tls: TLSConfig, asked_for: TLSConfig) -> TLSConfig:
    """Returns the identity in use with the leaf of an issuer's answer, and with its own CAs.

    It may trust other CAs by now than it did when the issuer was asked. An answer replaces the leaf
    that it was asked for, and no other.
    """
    if tls.certificate != asked_for.certificate:
        return tls
    kept = needed_cas(answer.chain, answer.bundle, tls.bundle)
    bundle = TrustBundle((*tls.bundle.certificates, *kept)).pem if kept else tls.trust_bundle
    return replace(answer, trust_bundle=bundle)
