"""A mesh that nobody tends for five years: real certificates, virtual time, no sockets.

Everything that decides is what ships: the CA's enrolment and rotation plan, the identity rotators,
the documents with their publisher and keepers. Only the network is a function call.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from aegis_certs import (
    CertificateAuthority,
    IdentitySource,
    KeyType,
    MeshView,
    RotationStep,
    TLSConfig,
)
from aegis_discovery import EnrolmentError
from aegis_discovery.documents import AuthorityDocuments, DocumentKeeper, SignedDocument
from aegis_discovery.identity import IdentityEvent, IdentityEventKind, IdentityRotator

MESH = "untended"
HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)
STEP = DAY
START = dt.datetime.now(dt.UTC).replace(microsecond=0)
LEAF_DAYS, CA_DAYS, YEARS = 14.0, 365.0, 5


class VirtualTime:
    def __init__(self) -> None:
        self.at = START

    def __call__(self) -> float:
        return self.at.timestamp()


class Issuer:
    """The issuer `ca-1`: its directory, and what its node runs. A restart keeps only the first."""

    def __init__(self, directory: Path, time: VirtualTime) -> None:
        self._directory, self._time = directory, time
        self.restart()

    def restart(self) -> None:
        self.is_running = True
        self.authority = CertificateAuthority.load(self._directory)
        source = IdentitySource.directory("ca-1", self._directory)
        self.member = Member(source, source.load(at=self._time.at), self, self._time)
        self.publisher = AuthorityDocuments(
            self.authority, mesh=MESH, store=self.member.keeper.store, clock=self._time
        )

    def answer(self, csr: bytes, tls: TLSConfig) -> tuple[bytes, ...]:
        if not self.is_running:
            raise EnrolmentError({"ca-1": "it refused the connection"}, is_refused=False)
        issued = self.authority.renew_for(
            csr,
            tls.certificate,
            issuer_id="ca-1",
            intermediates=tls.chain[1:],
            at=self._time.at,
        )
        return issued.chain


class MemberRenewal:
    """`MeshRenewal` without a thread and a channel."""

    is_possible = True

    def __init__(self, source: IdentitySource, issuer: Issuer, time: VirtualTime) -> None:
        self._source, self._issuer, self._time = source, issuer, time
        self._tls: TLSConfig | None = None

    @property
    def is_running(self) -> bool:
        return self._tls is not None

    def obstacle(self, tls: TLSConfig) -> str:
        return ""

    def begin(self, tls: TLSConfig) -> None:
        self._tls = tls

    def result(self) -> TLSConfig | None:
        tls, self._tls = self._tls, None
        assert tls is not None
        with self._source.requesting(tls, at=self._time.at) as request:
            chain = self._issuer.answer(request.csr, tls)
            return request.install(request.verify(chain, at=self._time.at))


class Member:
    """A node or client: its documents, and its identity, which only the rotator changes."""

    def __init__(
        self, source: IdentitySource, tls: TLSConfig, issuer: Issuer, time: VirtualTime
    ) -> None:
        self.tls, self._time = tls, time
        self.keeper = DocumentKeeper(tls, mesh=MESH, files=source.published, clock=time)
        self.keeper.load()
        self._renewal = MemberRenewal(source, issuer, time)
        self._rotator = IdentityRotator(
            source,
            tls,
            remote=self._renewal,
            published=self.keeper,
            clock=time,
            rng=random.Random(tls.node_id),
        )
        self.renewals = 0
        self.poll()

    def receive(self, documents: Sequence[SignedDocument]) -> None:
        for document in documents:
            self.keeper.store.receive(document)
        self._take(self._rotator.apply_published())

    def poll(self) -> None:
        self._take(self._rotator.poll())
        if self._renewal.is_running:
            self._take(self._rotator.poll())  # takes the answer

    def _take(self, events: Sequence[IdentityEvent]) -> None:
        for event in events:
            assert event.kind is not IdentityEventKind.REFUSED, event
            if event.kind is IdentityEventKind.CHANGED:
                self.renewals += event.tls.certificate != self.tls.certificate
                self.tls = event.tls
                self.keeper.change_identity(self.tls)


class Calls:
    """All calls between all members, as TLS would check them."""

    def __init__(self) -> None:
        self._checked: dict[tuple[bytes, bytes, str], dt.datetime] = {}
        self.count = 0

    def try_all(self, members: Sequence[Member], at: dt.datetime) -> None:
        for caller in members:
            for provider in members:
                if provider is not caller and not provider.tls.node_id.startswith("client"):
                    self._try(caller.tls, provider.tls, "client", at)
                    self._try(provider.tls, caller.tls, "server", at)
                    self.count += 1

    def _try(self, shown: TLSConfig, judge: TLSConfig, usage: str, at: dt.datetime) -> None:
        """A chain that was accepted is good until something in it ends."""
        key = (shown.certificate_chain, judge.trust_bundle, usage)
        until = self._checked.get(key)
        if until is None:
            judge.bundle.verify(shown.chain, usage, at=at)  # type: ignore[arg-type]
            path = judge.bundle.path_of(shown.chain)
            issuer = judge.bundle.issuer_of(path[-1]) or path[-1]
            until = min(one.not_valid_after_utc for one in (*path, issuer))
            self._checked[key] = until
        assert at <= until, f"{shown.node_id} was refused at {at}"


def view_of(members: Sequence[Member]) -> MeshView:
    nodes = [one.tls for one in members if not one.tls.node_id.startswith("client")]
    return MeshView.of(
        {one.node_id: one.bundle_fingerprint for one in nodes},
        {one.node_id: one.certificate for one in nodes},
    )


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_mesh_that_nobody_tends_for_five_years_refuses_no_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)  # no machine crashes here
    time, rng = VirtualTime(), random.Random(5)
    home = tmp_path / "home"
    ca = CertificateAuthority.create(home, key_type=KeyType.P256, days=CA_DAYS, at=START)
    ca.issue("ca-1", key_type=KeyType.P256, days=LEAF_DAYS, at=START)
    issuer, members = Issuer(home, time), []
    for name in (*(f"node-{n}" for n in range(1, 6)), "client-1", "client-2"):
        tls = ca.issue_in_memory(name, days=LEAF_DAYS, client_only=name[0] == "c", at=START)
        source = IdentitySource.fixed(tls)
        source.load()
        members.append(Member(source, tls, issuer, time))
    calls, cas = Calls(), {ca.certificate}
    steps: list[RotationStep] = []
    back_at, next_stop, restarts = START, START + 20 * DAY, 0
    while time.at < START + YEARS * 365 * DAY:
        time.at += STEP
        everyone = [issuer.member, *members] if issuer.is_running else members
        calls.try_all(everyone, time.at)  # as all were until now
        if issuer.is_running and time.at >= next_stop:
            issuer.is_running = False
            back_at, next_stop = time.at + rng.uniform(1, 36) * HOUR, time.at + 40 * DAY
        elif not issuer.is_running and time.at >= back_at:
            issuer.restart()
            restarts += 1
        if issuer.is_running:
            everyone = [issuer.member, *members]
            issuer.member.poll()
            decision = issuer.authority.advance_rotation(view_of(everyone), at=time.at)
            assert (decision.blocked, decision.lagging) == ("", ())
            if decision.step is not None:
                steps.append(decision.step)
                cas.add(issuer.authority.certificate)
            issuer.member.poll()
            issuer.member.receive(list(issuer.publisher.poll()))
        for member in members:
            if issuer.is_running:
                member.receive([one.signed for one in issuer.member.keeper.store])
            member.poll()
        calls.try_all(everyone if issuer.is_running else members, time.at)
    assert steps == [*RotationStep] * (len(steps) // 3) + [*RotationStep][: len(steps) % 3]
    assert len(cas) == 8, "each CA is prepared at two thirds of the life of the one before"
    assert all(member.renewals > 175 for member in members), [one.renewals for one in members]
    assert restarts > 40
    print(f"{calls.count} calls, {len(cas)} CAs, {sum(one.renewals for one in members)} renewals")
