"""A CA is replaced while nodes run."""

from __future__ import annotations

import datetime as dt
import shutil
import subprocess
from pathlib import Path

import pytest
from aegis_certs import (
    CertificateAuthority,
    IdentitySource,
    InvalidRequestError,
    KeyType,
    NotFoundError,
    RotationError,
    RotationPhase,
    StillUsedError,
    TrustBundle,
    UntrustedError,
    load_or_generate_tls,
    request_certificate,
)

P256 = KeyType.P256
DAY = dt.timedelta(days=1)
NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)


@pytest.fixture
def source(ca: CertificateAuthority) -> IdentitySource:
    source = IdentitySource.directory("node-1", ca.directory, key_type=P256)
    source.load()
    return source


@pytest.mark.parametrize("lost", [(), ("issued.json",), ("issued.json", "audit.jsonl")])
def test_a_leaf_that_the_old_ca_cut_short_gets_its_days_from_the_new_one(
    directory: Path, lost: tuple[str, ...]
) -> None:
    ca = CertificateAuthority.create(directory, key_type=P256, days=365, at=NOW - 364 * DAY)
    asked = {"node-1": 90, "node-2": 30}
    for node_id, days in asked.items():
        cut = ca.issue(node_id, key_type=P256, days=days, at=NOW)
        assert cut.not_after == NOW + DAY
        ca.renew(node_id, at=NOW)
    for name in lost:
        (directory / name).unlink()
    ca.prepare_rotation(at=NOW)
    ca.activate_rotation(confirm=True, at=NOW)
    assert [one.error for one in ca.renew_due(at=NOW)] == [None, None]
    if len(lost) == 2:
        asked["node-2"] = 90  # nothing here knows more
    for node_id, days in asked.items():
        tls = load_or_generate_tls(node_id, directory, at=NOW)
        assert tls.not_after == NOW + days * DAY, node_id


def test_every_step_keeps_all_nodes_trusting_each_other(
    ca: CertificateAuthority, source: IdentitySource
) -> None:
    old_root = ca.certificate
    stale = source.load()
    state = ca.prepare_rotation()
    assert (state.phase, state.next, ca.name) == (RotationPhase.PREPARED, "Test CA G2", "Test CA")
    assert not state.trusts(stale.bundle_fingerprint)
    both = source.poll()
    assert both is not None
    assert state.trusts(both.bundle_fingerprint)
    assert both.bundle_fingerprint == state.bundle_fingerprint
    assert both.certificate == stale.certificate
    assert ca.issue("node-2", key_type=P256).certificate.issuer == old_root.subject

    state = ca.activate_rotation(confirm=True)
    assert (state.phase, state.issuing, state.old) == (
        RotationPhase.ACTIVATED,
        "Test CA G2",
        "Test CA",
    )
    assert {leaf.id for leaf in state.old_leaves} == {"node-1", "node-2"}
    new = ca.issue("node-3", key_type=P256)
    assert both.bundle.verify(new.chain, "server").node_id == "node-3"
    assert new.bundle.verify(both.chain, "client").node_id == "node-1"
    assert new.bundle_fingerprint == both.bundle_fingerprint

    with pytest.raises(StillUsedError) as caught:
        ca.retire_rotation()
    assert caught.value.node_ids == ("node-1", "node-2")
    source.poll()
    assert source.issuer_replaced()
    assert source.renew() is not None
    assert not source.issuer_replaced()
    assert [one.node_id for one in ca.renew_due()] == ["node-2"]
    with pytest.raises(StillUsedError, match="node-9"):
        ca.retire_rotation(in_use=["node-9"])
    state = ca.retire_rotation()
    assert state.phase is RotationPhase.NONE
    last = source.poll()
    assert last is not None
    assert last.bundle.certificates == (ca.certificate,)
    with pytest.raises(UntrustedError):
        last.bundle.verify(both.chain, None)
    assert not list(ca.directory.glob("ca_*"))


def test_activation_needs_confirmation_if_nodes_may_not_trust_the_new_ca(
    ca: CertificateAuthority, source: IdentitySource
) -> None:
    ca.prepare_rotation()
    with pytest.raises(StillUsedError) as caught:
        ca.activate_rotation()
    assert caught.value.node_ids == ("node-1",)
    with pytest.raises(StillUsedError) as caught:
        ca.activate_rotation(distrusting=["b", "a"])
    assert caught.value.node_ids == ("a", "b")
    assert ca.rotation().phase is RotationPhase.PREPARED
    assert ca.activate_rotation(distrusting=[]).phase is RotationPhase.ACTIVATED


def test_steps_in_the_wrong_order_are_refused(ca: CertificateAuthority) -> None:
    for step in (ca.activate_rotation, ca.retire_rotation):
        with pytest.raises(RotationError):
            step()
    ca.prepare_rotation()
    for wrong in (ca.prepare_rotation, ca.retire_rotation):
        with pytest.raises(RotationError):
            wrong()
    ca.activate_rotation()
    for wrong in (ca.prepare_rotation, ca.activate_rotation):
        with pytest.raises(RotationError):
            wrong()


def test_a_refused_retirement_says_how_each_node_gets_a_new_certificate(
    ca: CertificateAuthority, tmp_path: Path
) -> None:
    ca.issue("here", key_type=P256)
    ca.sign(request_certificate("away", tmp_path / "away", key_type=P256).read_bytes())
    ca.prepare_rotation()
    ca.activate_rotation(confirm=True)
    with pytest.raises(StillUsedError, match=r"`aegis-certs renew`.*away.*`aegis-certs csr`"):
        ca.retire_rotation()
    ca.renew("here")
    with pytest.raises(StillUsedError, match="`aegis-certs csr`") as caught:
        ca.retire_rotation()
    assert "renew" not in str(caught.value)
    ca.revoke("away")
    assert ca.retire_rotation().phase is RotationPhase.NONE


def test_a_second_rotation_follows_the_first(ca: CertificateAuthority) -> None:
    names = []
    for _ in range(3):
        ca.prepare_rotation()
        ca.activate_rotation()
        ca.retire_rotation()
        names.append(ca.name)
    assert names == ["Test CA G2", "Test CA G3", "Test CA G4"]


def test_a_root_cannot_be_where_the_ca_itself_is(ca: CertificateAuthority) -> None:
    with pytest.raises(InvalidRequestError, match="root directory"):
        ca.prepare_rotation(root_directory=ca.directory)


def test_the_new_ca_must_have_another_name(ca: CertificateAuthority) -> None:
    with pytest.raises(InvalidRequestError, match="Test CA"):
        ca.prepare_rotation(name="Test CA")


def test_replaced_and_revoked_leaves_do_not_block_the_retirement(
    ca: CertificateAuthority,
) -> None:
    for node_id in ("node-1", "node-2"):
        ca.issue(node_id, key_type=P256)
    ca.prepare_rotation()
    ca.activate_rotation(confirm=True)
    ca.renew("node-1")
    ca.revoke("node-2")
    assert ca.retire_rotation().old_leaves != ()


def test_a_short_lived_certificate_blocks_no_step(ca: CertificateAuthority) -> None:
    ca.issue_in_memory("visitor", client_only=True, days=1 / 24)
    ca.prepare_rotation()
    assert ca.activate_rotation().old_leaves == ()
    ca.retire_rotation()
    ca.issue_in_memory("guest", client_only=True, days=2 / 24)
    assert [leaf.id for leaf in ca.prepare_rotation().old_leaves] == ["guest"]


def test_certificates_of_the_old_ca_can_be_revoked_until_it_is_retired(
    ca: CertificateAuthority, source: IdentitySource
) -> None:
    old = source.load()
    ca.prepare_rotation()
    ca.activate_rotation(confirm=True)
    new = ca.issue("node-2", key_type=P256)
    source.poll()
    ca.revoke("node-1")
    ca.revoke("node-2")
    revocations = source.revocations()
    for tls, issuer in ((old, "Test CA"), (new, "Test CA G2")):
        found = revocations.is_revoked(tls.certificate)
        assert found is not None
        assert found.issuer == issuer
    ca.issue("node-1", key_type=P256)
    ca.retire_rotation()
    source.poll()
    assert [one.issuer for one in source.revocations()] == ["Test CA G2"]


def test_another_process_with_the_old_ca_loaded_issues_from_the_new_ca(
    ca: CertificateAuthority,
) -> None:
    other = CertificateAuthority.load(ca.directory)
    ca.prepare_rotation()
    ca.activate_rotation()
    tls = other.issue("node-1", key_type=P256)
    assert other.name == ca.name
    assert tls.chain[0].issuer == ca.certificate.subject


def test_loading_renews_a_leaf_of_the_old_ca(ca: CertificateAuthority) -> None:
    ca.issue("node-1", key_type=P256)
    ca.prepare_rotation()
    ca.activate_rotation(confirm=True)
    tls = load_or_generate_tls("node-1", ca.directory)
    assert tls.certificate.issuer == ca.certificate.subject
    assert load_or_generate_tls("node-1", ca.directory) == tls


def test_a_node_without_the_ca_key_keeps_its_old_leaf_and_loads_the_new_bundle(
    ca: CertificateAuthority, tmp_path: Path
) -> None:
    ca.issue("node-1", key_type=P256)
    away = tmp_path / "away"
    away.mkdir()
    for name in ("ca-cert.pem", "node-1-cert.pem", "node-1-key.pem"):
        shutil.copy(ca.directory / name, away)
    source = IdentitySource.directory("node-1", away)
    first = source.load()
    ca.prepare_rotation()
    ca.activate_rotation(confirm=True)
    shutil.copy(ca.directory / "ca-cert.pem", away)
    found = source.poll()
    assert found is not None
    assert found.certificate == first.certificate
    assert (source.issuer_replaced(), source.renew()) == (False, None)


def test_an_intermediate_needs_a_root_to_be_rotated(tmp_path: Path) -> None:
    ca = CertificateAuthority.create(tmp_path / "c", key_type=P256, intermediate=True, name="A")
    ca.issue("node-1", key_type=P256)
    with pytest.raises(NotFoundError, match="root"):
        ca.prepare_rotation()
    before = ca.bundle.fingerprint
    state = ca.prepare_rotation(root_directory=tmp_path / "c-root")
    assert state.bundle_fingerprint == before  # the root is the same
    assert state.trusts(before)
    ca.activate_rotation(distrusting=[])
    new = ca.renew("node-1")
    assert [cert.subject for cert in new.chain[1:]] == [ca.certificate.subject]
    old_only = TrustBundle([ca.bundle.path()[-1]])
    assert old_only.verify(new.chain, "server").node_id == "node-1"
    ca.retire_rotation()
    assert len(ca.bundle.certificates) == 2
    assert ca.bundle.verify(new.chain, "server")


def test_an_intermediate_has_another_name_than_its_root(tmp_path: Path) -> None:
    root = tmp_path / "usb"
    CertificateAuthority.create(tmp_path / "a", key_type=P256, root_directory=root, name="Acme")
    with pytest.raises(InvalidRequestError, match="root has it"):
        CertificateAuthority.create(
            tmp_path / "b", key_type=P256, root_directory=root, name="Acme Root"
        )


def test_a_root_in_the_directory_can_move_offline(ca: CertificateAuthority, tmp_path: Path) -> None:
    ca.issue("node-1", key_type=P256)
    ca.prepare_rotation(root_directory=tmp_path / "root")
    ca.activate_rotation(confirm=True)
    tls = ca.renew("node-1")
    ca.retire_rotation()
    assert len(tls.chain) == 2
    shutil.rmtree(tmp_path / "root")
    assert ca.issue("node-2", key_type=P256).bundle.verify(tls.chain, "server")


def test_a_rotation_keeps_the_passphrase(tmp_path: Path) -> None:
    ca = CertificateAuthority.create(tmp_path / "c", key_type=P256, passphrase="secret")
    ca.prepare_rotation()
    ca.activate_rotation()
    for path in ca.directory.glob("ca*-key.pem"):
        assert b"ENCRYPTED" in path.read_bytes()
    assert CertificateAuthority.load(ca.directory, passphrase="secret").name == ca.name


@pytest.mark.parametrize("key_type", [KeyType.RSA_2048, P256, KeyType.P384])
def test_openssl_accepts_leaves_of_both_cas_during_a_rotation(
    tmp_path: Path, key_type: KeyType
) -> None:
    ca = CertificateAuthority.create(tmp_path, key_type=key_type, name="Acme")
    old = ca.issue("node-1", key_type=P256)
    ca.prepare_rotation()
    ca.activate_rotation(confirm=True)
    new = ca.issue("node-2", key_type=P256)
    ca.write_revocations()
    for tls in (old, new):
        leaf = tmp_path / "leaf.pem"
        leaf.write_bytes(tls.certificate_chain)
        done = subprocess.run(
            [
                *("openssl", "verify", "-x509_strict", "-crl_check", "-purpose", "sslserver"),
                *("-CAfile", tmp_path / "ca-cert.pem", "-CRLfile", tmp_path / "crl.pem", leaf),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.strip().endswith("OK"), done.stderr
