"""An identity whose leaf and trust bundle change at the same time, in both orders."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from aegis_certs import CertificateAuthority, IdentitySource, KeyType, RevocationList, TLSConfig
from aegis_discovery.aio.identity import run_rotator
from aegis_discovery.identity import IdentityEvent, IdentityEventKind, IdentityRotator

from ..conftest import ManualClock
from .test_remote_renewal import Remote

Until = Callable[[Callable[[], object]], Awaitable[None]]
DAY = 86400.0
CHANGED = IdentityEventKind.CHANGED


class Published:
    """What the mesh publishes; `between` runs while a poll is in one of its steps."""

    def __init__(self) -> None:
        self.revocations = RevocationList.empty()
        self.bundle: bytes | None = None
        self.between: dict[str, Callable[[], None]] = {}

    def trusting(self, tls: TLSConfig) -> TLSConfig:
        found = tls if self.bundle is None else replace(tls, trust_bundle=self.bundle)
        self._pause("trusting")
        return found

    def save(self) -> None:
        self._pause("save")

    def _pause(self, step: str) -> None:
        if hook := self.between.pop(step, None):
            hook()


class Mesh:
    """One member that polls, and that hears of a second CA."""

    def __init__(self, directory: Path) -> None:
        cas = [CertificateAuthority.create(directory / n, key_type=KeyType.P256) for n in "ab"]
        self.ca = cas[0]
        self.both = b"".join((ca.directory / "ca-cert.pem").read_bytes() for ca in reversed(cas))
        self.clock, self.remote, self.published = ManualClock(time.time()), Remote(), Published()
        self.ca.issue("a", key_type=KeyType.P256, days=30)
        self.source = IdentitySource.directory("a", self.ca.directory)
        self.remote.is_possible = False
        self.rotator = IdentityRotator(
            self.source,
            self.source.load(),
            remote=self.remote,
            clock=self.clock,
            rng=random.Random(7),
            published=self.published,
        )

    def publish(self) -> list[IdentityEvent]:
        self.published.bundle = self.both
        return self.rotator.apply_published()

    def ask(self) -> TLSConfig:
        """Asks an issuer; returns what it is going to answer."""
        (self.ca.directory / "ca-key.pem").rename(self.ca.directory.parent / "key")
        self.remote.is_possible = True
        self.clock.now = self.rotator.renew_at
        assert self.rotator.poll() == []
        assert len(self.remote.asked) == 1
        (self.ca.directory.parent / "key").rename(self.ca.directory / "ca-key.pem")
        return self.ca.issue_in_memory("a", key_type=KeyType.P256, days=60)


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path)


@pytest.mark.parametrize("held", ["the poll", "what is published"])
def test_a_new_leaf_and_a_new_bundle_at_the_same_time_are_both_used(mesh: Mesh, held: str) -> None:
    """One of the two threads has read the identity in use when the other one changes it."""
    leaf = mesh.ca.issue("a", key_type=KeyType.P256, days=30)
    works = [mesh.rotator.poll, mesh.publish]
    first, second = works if held == "the poll" else reversed(works)
    other = threading.Thread(target=second)

    def hold() -> None:
        other.start()
        other.join(0.2)  # it ends now, or it waits for this change

    mesh.published.between["trusting"] = hold
    first()
    other.join()
    assert mesh.rotator.tls == replace(leaf, trust_bundle=mesh.both)


def test_the_answer_of_an_issuer_brings_no_old_bundle_back(mesh: Mesh) -> None:
    answer = mesh.ask()
    mesh.publish()
    mesh.published.bundle = None  # it is in the files by now
    mesh.remote.answer = lambda: answer
    (event,) = mesh.rotator.poll()
    assert event.tls == mesh.rotator.tls == replace(answer, trust_bundle=mesh.both)
    assert mesh.source.current == event.tls


def test_an_answer_that_the_files_had_first_changes_nothing(mesh: Mesh) -> None:
    answer = mesh.ask()
    there = mesh.ca.directory
    (there / "a-key.pem").write_bytes(answer.private_key)
    (there / "a-cert.pem").write_bytes(answer.certificate_chain)
    (there / "ca-cert.pem").write_bytes(mesh.both)
    mesh.remote.answer = lambda: answer
    (event,) = mesh.rotator.poll()
    assert event.tls == mesh.rotator.tls == replace(answer, trust_bundle=mesh.both)
    assert mesh.source.current == event.tls


def test_an_answer_replaces_only_the_leaf_that_it_was_asked_for(mesh: Mesh) -> None:
    answer = mesh.ask()
    other = mesh.ca.issue_in_memory("a", key_type=KeyType.P256, days=40)
    mesh.rotator.change_identity(other)
    mesh.remote.answer = lambda: answer
    assert mesh.rotator.poll() == []
    assert mesh.rotator.tls == other


async def test_an_event_of_a_poll_has_what_was_published_during_the_poll(
    mesh: Mesh, until: Until
) -> None:
    loop, received = asyncio.get_running_loop(), list[TLSConfig]()

    async def publish() -> None:
        received.extend(event.tls for event in mesh.publish())

    mesh.published.between["save"] = lambda: asyncio.run_coroutine_threadsafe(
        publish(), loop
    ).result(5)
    leaf = mesh.ca.issue("a", key_type=KeyType.P256, days=30)
    running = asyncio.create_task(run_rotator(mesh.rotator, lambda e: received.append(e.tls)))
    await until(lambda: len(received) == 2)
    running.cancel()
    assert received == [replace(leaf, trust_bundle=mesh.both)] * 2
