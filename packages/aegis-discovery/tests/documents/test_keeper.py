"""The documents of one process, in memory and in its directory."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from aegis_certs import CertificateAuthority, KeyType, PublishedFiles, TLSConfig, TrustBundle
from aegis_discovery.documents import DocumentKeeper, DocumentKind, encode_bundle

from .conftest import MESH, NOW, NOW_MS, Authority

DAY = 24 * 3600


class Machine:
    """A directory with identities of a CA, but without its key."""

    def __init__(self, authority: Authority, root: Path) -> None:
        self.authority = authority
        self.directory = root / "machine"
        self.directory.mkdir(mode=0o700)
        self.files = PublishedFiles(self.directory)

    def add(self, node_id: str) -> TLSConfig:
        ca = self.authority.ca
        tls = ca.issue(node_id, key_type=KeyType.P256, at=NOW)
        for name in ("ca-cert.pem", f"{node_id}-cert.pem", f"{node_id}-key.pem"):
            shutil.copy(ca.directory / name, self.directory / name)
        return tls

    def keeper(self, tls: TLSConfig, *, mesh: str = MESH) -> DocumentKeeper:
        return DocumentKeeper(tls, mesh=mesh, files=self.files, clock=self.authority.clock)

    @property
    def roots(self) -> int:
        return (self.directory / "ca-cert.pem").read_text().count("BEGIN")


@pytest.fixture
def machine(authority: Authority, tmp_path: Path) -> Machine:
    return Machine(authority, tmp_path)


def test_what_is_saved_is_there_after_a_restart_and_after_its_signer_has_ended(
    authority: Authority, machine: Machine
) -> None:
    tls = machine.add("a")
    keeper = machine.keeper(tls)
    keeper.load()
    for signed in (authority.sign(), authority.revoke("b")):
        keeper.store.receive(signed)
    keeper.save()
    assert (machine.directory / "crl.pem").exists()
    authority.clock.now += 20 * DAY
    again = machine.keeper(tls)
    again.load()
    assert again.store.policy == keeper.store.policy
    assert len(again.revocations) == 1
    # A lower sequence is not accepted after the restart either.
    assert again.store.receive(authority.sign(b"", NOW_MS - 1)) is None


@pytest.mark.parametrize("damage", [b"", b"\xff\xff", None])
def test_a_lost_or_damaged_file_is_fetched_again(
    authority: Authority, machine: Machine, damage: bytes | None
) -> None:
    tls = machine.add("a")
    keeper = machine.keeper(tls)
    keeper.store.receive(authority.sign())
    keeper.save()
    (kept,) = (machine.directory / "documents").glob("policy-*")
    if damage is None:
        kept.unlink()
    else:
        kept.write_bytes(damage)
    again = machine.keeper(tls)
    again.load()
    assert again.store.policy is None
    again.store.receive(authority.sign())
    again.save()
    assert len(kept.read_bytes()) > 100


def test_a_changed_file_is_not_believed(authority: Authority, machine: Machine) -> None:
    tls = machine.add("a")
    keeper = machine.keeper(tls)
    keeper.store.receive(authority.sign())
    keeper.save()
    (kept,) = (machine.directory / "documents").glob("policy-*")
    kept.write_bytes(kept.read_bytes().replace(b"orders-", b"thieves"))
    again = machine.keeper(tls)
    again.load()
    assert again.store.policy is None


def test_two_meshes_on_one_directory_do_not_mix(authority: Authority, machine: Machine) -> None:
    tls = machine.add("a")
    one, other = machine.keeper(tls), machine.keeper(tls, mesh="other")
    one.store.receive(authority.sign())
    one.save()
    other.load()
    assert len(other.store) == 0
    other.store.receive(authority.sign(mesh="other"))
    other.save()
    one.load()
    assert len(one.store) == 1


def test_a_directory_that_cannot_be_written_is_no_error(
    authority: Authority, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    tls = machine.add("a")
    (machine.directory / "documents").write_text("this is no folder")
    keeper = machine.keeper(tls)
    keeper.load()
    keeper.store.receive(authority.sign())
    for _ in range(5):
        keeper.save()
    assert keeper.store.policy is not None
    assert len([line for line in caplog.messages if "stays in memory only" in line]) == 1


def test_what_could_not_be_written_is_written_later(
    authority: Authority, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegis_discovery.documents._keeper.RETRY", 0.0)
    keeper = machine.keeper(machine.add("a"))
    keeper.store.receive(authority.revoke("b"))
    machine.directory.chmod(0o777)  # nothing is written into such a directory
    keeper.save()
    assert not (machine.directory / "crl.pem").exists()
    machine.directory.chmod(0o700)
    keeper.save()
    assert (machine.directory / "crl.pem").exists()


def test_an_own_list_with_a_higher_number_stays(authority: Authority, machine: Machine) -> None:
    tls = machine.add("a")
    older = authority.revoke("b")
    authority.revoke("c")
    shutil.copy(authority.ca.directory / "crl.pem", machine.directory / "crl.pem")
    before = (machine.directory / "crl.pem").read_bytes()
    keeper = DocumentKeeper(tls, mesh=MESH, files=machine.files, clock=authority.clock)
    keeper.store.receive(older)
    keeper.save()
    assert (machine.directory / "crl.pem").read_bytes() == before
    again = machine.keeper(tls)
    again.load()
    assert len(again.revocations) == 2


def publish(keeper: DocumentKeeper, authority: Authority, bundle: TrustBundle, ahead: int) -> None:
    content = encode_bundle(bundle)
    signed = authority.sign(content, NOW_MS + ahead, kind=DocumentKind.BUNDLE)
    assert keeper.store.receive(signed) is not None


def test_a_published_bundle_is_trusted_at_once_and_then_by_the_file(
    authority: Authority, other: Authority, machine: Machine
) -> None:
    tls = machine.add("a")
    keeper = machine.keeper(tls)
    both = TrustBundle([authority.ca.certificate, other.ca.certificate])
    publish(keeper, authority, both, 1)
    assert {*keeper.trusting(tls).bundle.certificates} == {*both.certificates}
    keeper.save()
    assert machine.roots == 2
    # Now the file counts, also if somebody replaces it.
    assert keeper.trusting(tls) is tls


def test_a_bundle_that_is_signed_anew_before_it_is_saved_is_saved_too(
    authority: Authority, other: Authority, machine: Machine
) -> None:
    """An issuer does so when another CA begins to issue, since the signer changes then."""
    tls = machine.add("a")
    keeper = machine.keeper(tls)
    both = TrustBundle([authority.ca.certificate, other.ca.certificate])
    publish(keeper, authority, both, 1)
    publish(keeper, authority, both, 2)
    assert {*keeper.trusting(tls).bundle.certificates} == {*both.certificates}
    keeper.save()
    assert machine.roots == 2
    assert keeper.trusting(tls) is tls


def test_the_ca_of_any_certificate_in_the_directory_is_kept(
    authority: Authority, machine: Machine
) -> None:
    """Two nodes share the directory, and one of them has not renewed yet."""
    ca = authority.ca
    old = machine.add("slow")
    ca.prepare_rotation(at=NOW)
    ca.activate_rotation(confirm=True, at=NOW)
    new = machine.add("fast")
    assert ca.certificate != old.bundle.certificates[0]
    keeper = machine.keeper(new)
    publish(keeper, authority, TrustBundle([ca.certificate]), 1)
    assert keeper.trusting(new).bundle.certificates == (ca.certificate,)
    keeper.save()
    assert machine.roots == 2
    slow = machine.keeper(old)
    publish(slow, authority, TrustBundle([ca.certificate]), 2)
    assert {*slow.trusting(old).bundle.certificates} == {*ca.bundle.certificates}


def test_the_bundle_beside_the_key_of_the_ca_is_never_replaced(
    authority: Authority, other: Authority
) -> None:
    ca: CertificateAuthority = authority.ca
    tls = ca.issue("a", key_type=KeyType.P256, at=NOW)
    before = (ca.directory / "ca-cert.pem").read_bytes()
    files = PublishedFiles(ca.directory)
    keeper = DocumentKeeper(tls, mesh=MESH, files=files, clock=authority.clock)
    keeper.load()
    both = TrustBundle([authority.ca.certificate, other.ca.certificate])
    publish(keeper, authority, both, 1)
    keeper.save()
    assert (ca.directory / "ca-cert.pem").read_bytes() == before


def test_the_retired_root_goes_when_the_own_leaf_is_renewed(
    authority: Authority, machine: Machine
) -> None:
    ca = authority.ca
    old = machine.add("a")
    ca.prepare_rotation(at=NOW)
    ca.activate_rotation(confirm=True, at=NOW)
    keeper = machine.keeper(old)
    publish(keeper, authority, TrustBundle([ca.certificate]), 1)
    assert len(keeper.trusting(old).bundle.certificates) == 2
    new = ca.renew("a", at=NOW)
    assert keeper.trusting(new).bundle.certificates == (ca.certificate,)


def test_the_list_of_a_ca_that_is_not_trusted_any_more_is_dropped(
    authority: Authority, machine: Machine
) -> None:
    """So no number of rotations fills the store, and late joiners have the same documents."""
    ca = authority.ca
    old = machine.add("a")
    keeper = machine.keeper(old)
    keeper.store.receive(authority.revoke("b"))
    keeper.store.receive(authority.sign())
    ca.prepare_rotation(at=NOW)
    keeper.change_identity(replace(old, trust_bundle=ca.bundle.pem))
    assert len(keeper.revocations) == 1
    ca.activate_rotation(confirm=True, at=NOW)
    new = ca.renew("a", at=NOW)
    keeper.change_identity(replace(new, trust_bundle=TrustBundle([ca.certificate]).pem))
    assert len(keeper.revocations) == 0
    assert [one.kind for one in keeper.store] == [DocumentKind.POLICY]
