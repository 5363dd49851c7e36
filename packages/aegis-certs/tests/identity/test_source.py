"""An identity that changes while its process runs."""

from __future__ import annotations

import contextlib
import datetime as dt
import resource
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from aegis_certs import (
    CAEndsError,
    CertificateAuthority,
    CertificateSource,
    CertsError,
    DirectoryError,
    ExpiredError,
    IdentitySource,
    InvalidPemError,
    KeyMismatchError,
    KeyType,
    NotFoundError,
    NotYetValidError,
    RevocationListError,
    RevokedError,
    TLSOptions,
    UntrustedError,
)
from aegis_certs._ca.create import CASpec
from aegis_certs._ca.session import create_session
from aegis_certs._store.directory import Store
from aegis_certs._x509.identity import alternative_names

P256 = KeyType.P256
DAY = dt.timedelta(days=1)
NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)


def source_of(directory: Path, **options: object) -> IdentitySource:
    return IdentitySource.directory("node-1", directory, key_type=P256, **options)  # type: ignore[arg-type]  # tests may give any option


@pytest.fixture
def elsewhere(ca: CertificateAuthority, tmp_path: Path) -> Path:
    """The directory of a node without the CA's key."""
    ca.issue("node-1", key_type=P256)
    return copy_to(ca, tmp_path / "elsewhere")


def copy_to(ca: CertificateAuthority, directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    for name in ("ca-cert.pem", "node-1-cert.pem", "node-1-key.pem"):
        shutil.copy(ca.directory / name, directory / name)
    return directory


def test_a_poll_without_a_change_reads_no_file(
    ca: CertificateAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(ca.directory)
    first = source.load()
    # The first poll may see what the load itself wrote.
    assert source.poll() is None
    assert source.revocations().number is None
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read"))
    assert source.poll() is None
    assert source.revocations().number is None
    assert source.current is first


def test_a_new_identity_is_returned_by_one_poll(ca: CertificateAuthority) -> None:
    source = source_of(ca.directory)
    first = source.load()
    new = ca.renew("node-1")
    assert source.poll() == new != first
    assert source.poll() is None


def test_a_file_that_was_only_touched_is_not_a_change(ca: CertificateAuthority) -> None:
    source = source_of(ca.directory)
    source.load()
    path = ca.directory / "node-1-cert.pem"
    path.write_bytes(path.read_bytes())
    assert source.poll() is None


def test_an_interrupted_install_is_a_change_too(ca: CertificateAuthority) -> None:
    source = source_of(ca.directory)
    source.load()
    new = ca.issue_in_memory("node-1")
    pending = ca.directory / "node-1.next.pem"
    pending.write_bytes(new.private_key + new.certificate_chain)
    assert source.poll() == new


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("node-1-cert.pem", InvalidPemError),
        ("node-1-key.pem", InvalidPemError),
        ("ca-cert.pem", InvalidPemError),
    ],
)
def test_invalid_files_are_an_error_once_and_the_old_identity_stays(
    elsewhere: Path, name: str, kind: type[CertsError]
) -> None:
    source = source_of(elsewhere)
    first = source.load()
    good = (elsewhere / name).read_bytes()
    (elsewhere / name).write_text("junk")
    with pytest.raises(kind):
        source.poll()
    assert source.poll() is None
    assert source.current == first
    (elsewhere / name).write_bytes(good)
    assert source.poll() is None  # the old identity again
    assert source.current == first


def test_files_of_two_issues_are_refused_until_both_are_there(
    ca: CertificateAuthority, elsewhere: Path
) -> None:
    source = source_of(elsewhere)
    source.load()
    new = ca.renew("node-1")
    (elsewhere / "node-1-cert.pem").write_bytes(new.certificate_chain)
    with pytest.raises(KeyMismatchError):
        source.poll()
    (elsewhere / "node-1-key.pem").write_bytes(new.private_key)
    assert source.poll() == new


def test_a_leaf_that_the_new_bundle_does_not_trust_is_refused(
    elsewhere: Path, tmp_path: Path
) -> None:
    source = source_of(elsewhere)
    source.load()
    other = CertificateAuthority.create(tmp_path / "other", key_type=P256)
    (elsewhere / "ca-cert.pem").write_bytes(other.bundle.pem)
    with pytest.raises(UntrustedError):
        source.poll()


def test_an_expired_leaf_is_refused(ca: CertificateAuthority, elsewhere: Path) -> None:
    source = source_of(elsewhere)
    source.load()
    old = ca.issue_in_memory("node-1", days=1, at=NOW)
    (elsewhere / "node-1-cert.pem").write_bytes(old.certificate_chain)
    (elsewhere / "node-1-key.pem").write_bytes(old.private_key)
    with pytest.raises(ExpiredError):
        source.poll(at=NOW + 2 * DAY)


def test_a_leaf_from_a_clock_ahead_is_accepted_once_it_is_valid(
    ca: CertificateAuthority, elsewhere: Path
) -> None:
    source = source_of(elsewhere)
    source.load(at=NOW)
    new = ca.issue_in_memory("node-1", at=NOW + DAY)
    (elsewhere / "node-1-cert.pem").write_bytes(new.certificate_chain)
    (elsewhere / "node-1-key.pem").write_bytes(new.private_key)
    for _ in range(2):
        with pytest.raises(NotYetValidError):
            source.poll(at=NOW)
    assert source.poll(at=NOW + DAY) == new
    assert source.poll(at=NOW + DAY) is None


def test_files_that_cannot_be_opened_now_are_tried_again(
    ca: CertificateAuthority, elsewhere: Path
) -> None:
    source = source_of(elsewhere)
    source.load()
    new = ca.renew("node-1")
    ca.issue("node-2", key_type=P256)
    ca.revoke("node-2")
    copy_to(ca, elsewhere)
    shutil.copy(ca.directory / "crl.pem", elsewhere)
    with no_more_open_files():
        for _ in range(2):
            with pytest.raises(DirectoryError, match="too many open files"):
                source.poll()
            with pytest.raises(DirectoryError, match="too many open files"):
                source.revocations()
    assert source.poll() == new
    assert len(source.revocations()) == 1


@contextmanager
def no_more_open_files() -> Iterator[None]:
    """Sets the limit of the system: open files stay open, and no other file can be opened."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_missing_files_are_an_error_and_the_old_identity_stays(elsewhere: Path) -> None:
    source = source_of(elsewhere)
    source.load()
    for name in ("node-1-cert.pem", "node-1-key.pem"):
        (elsewhere / name).unlink()
    with pytest.raises(NotFoundError):
        source.poll()
    assert source.poll() is None
    assert source.current is not None


def test_a_renewal_has_a_new_key_and_is_not_reported_by_the_next_poll(
    ca: CertificateAuthority,
) -> None:
    source = source_of(ca.directory)
    first = source.load()
    new = source.renew()
    assert new is not None
    assert new.private_key != first.private_key
    assert source.poll() is None
    assert source.current == new


def test_a_renewal_by_another_process_is_used(ca: CertificateAuthority) -> None:
    source, other = source_of(ca.directory), source_of(ca.directory)
    first = source.load()
    other.load()
    assert other.renew() == source.renew() != first


def test_of_workers_that_renew_at_the_same_time_one_does_and_all_use_it(
    ca: CertificateAuthority,
) -> None:
    sources = [source_of(ca.directory) for _ in range(8)]
    first = sources[0].load()
    assert {source.load().fingerprint for source in sources} == {first.fingerprint}
    with ThreadPoolExecutor(len(sources)) as workers:
        renewed = list(workers.map(IdentitySource.renew, sources))
    found = {tls.fingerprint for tls in renewed if tls is not None}
    assert len(found) == 1
    assert first.fingerprint not in found
    log = (ca.directory / "audit.jsonl").read_text()
    assert len([line for line in log.splitlines() if "node-1" in line]) == 2, "issued and renewed"


def test_a_leaf_of_the_old_ca_is_renewed_before_any_poll(
    ca: CertificateAuthority,
) -> None:
    source = source_of(ca.directory)
    first = source.load()
    ca.prepare_rotation()
    ca.activate_rotation(confirm=True)
    new = source.renew()
    assert new is not None
    assert new.certificate.issuer == ca.certificate.subject != first.certificate.issuer


def test_an_expired_leaf_is_still_renewed(ca: CertificateAuthority) -> None:
    source = source_of(ca.directory)
    source.load(at=NOW)
    new = source.renew(at=NOW + 200 * DAY)
    assert new is not None
    assert abs(new.not_after - (NOW + 290 * DAY)) < DAY


def test_a_leaf_that_ends_with_its_ca_cannot_be_renewed(directory: Path) -> None:
    CertificateAuthority.create(directory, key_type=P256, days=1)
    source = source_of(directory)
    first = source.load()
    with pytest.raises(CAEndsError, match="rotate-ca prepare") as caught:
        source.renew()
    assert (caught.value.subject, caught.value.not_after) == ("node-1", first.not_after)
    assert source.current == first


def test_nothing_is_renewed_without_the_ca_key(elsewhere: Path) -> None:
    source = source_of(elsewhere)
    source.load()
    assert source.renew() is None


def test_nothing_is_renewed_without_the_passphrase_of_the_ca_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = CertificateAuthority.create(tmp_path / "c", key_type=P256, passphrase="secret")
    ca.issue("node-1", key_type=P256)
    source = source_of(ca.directory)
    first = source.load()
    assert source.renew() is None
    monkeypatch.setenv("AEGIS_CA_PASSPHRASE", "secret")
    assert source.renew() not in (None, first)


def test_renewals_drop_the_old_own_address(ca: CertificateAuthority) -> None:
    source_of(ca.directory, address="10.0.0.1:1", hosts=["a.example"]).load()
    moved = source_of(ca.directory, address="10.0.0.2:1")
    assert [str(ip) for ip in alternative_names(moved.load().certificate).ips] == ["10.0.0.2"]
    renewed = ca.renew("node-1")  # a renewal without an address keeps the old one
    names = alternative_names(renewed.certificate)
    assert [str(ip) for ip in names.ips] == ["10.0.0.2"]
    moved.poll()
    assert names.dns == ("node-1", "a.example")


def test_a_list_that_ends_while_it_is_in_use_stays_in_use_with_one_warning(
    ca: CertificateAuthority, elsewhere: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = source_of(elsewhere)
    gone = ca.issue("gone", key_type=P256)
    ca.revoke("gone", at=NOW)
    shutil.copy(ca.directory / "crl.pem", elsewhere)
    source.load()
    for day, lines in ((1, 0), (31, 1), (32, 1)):
        assert source.revocations(at=NOW + day * DAY).is_revoked(gone.certificate)
        found = [r.message for r in caplog.records if "should have been replaced" in r.message]
        assert len(found) == lines, day
    ca.write_revocations(at=NOW + 32 * DAY)
    shutil.copy(ca.directory / "crl.pem", elsewhere)
    source.revocations(at=NOW + 33 * DAY)
    source.revocations(at=NOW + 70 * DAY)
    found = [r.message for r in caplog.records if "should have been replaced" in r.message]
    assert len(found) == 2, "one for each list"


def test_revocations_are_read_when_the_file_changes(
    ca: CertificateAuthority, elsewhere: Path
) -> None:
    source = source_of(elsewhere)
    tls = source.load()
    assert source.revocations().is_revoked(tls.certificate) is None
    ca.revoke("node-1")
    shutil.copy(ca.directory / "crl.pem", elsewhere)
    revocations = source.revocations()
    found = revocations.is_revoked(tls.certificate)
    assert found is not None
    assert found.reason == "unspecified"
    assert source.revocations() is revocations
    with pytest.raises(RevokedError):
        source_of(elsewhere).load()


def test_an_invalid_or_missing_list_is_an_error_once_and_the_old_one_stays(
    ca: CertificateAuthority, elsewhere: Path, tmp_path: Path
) -> None:
    path = elsewhere / "crl.pem"
    source = source_of(elsewhere)
    tls = source.load()
    ca.write_revocations()
    older = (ca.directory / "crl.pem").read_bytes()
    ca.revoke("node-1")
    shutil.copy(ca.directory / "crl.pem", path)
    good = source.revocations()
    stranger = CertificateAuthority.create(tmp_path / "s", key_type=P256, name=ca.name)
    stranger.write_revocations()
    for data in (b"junk", older, (stranger.directory / "crl.pem").read_bytes(), None):
        path.unlink() if data is None else path.write_bytes(data)
        with pytest.raises(CertsError):
            source.revocations()
        assert source.revocations() is good
    assert good.is_revoked(tls.certificate)


@pytest.mark.parametrize("damage", [None, b"junk", b"older"])
def test_in_the_directory_of_a_ca_the_audit_log_revokes_too(
    ca: CertificateAuthority, damage: bytes | None
) -> None:
    other, path = ca.issue("node-2", key_type=P256), ca.directory / "crl.pem"
    ca.write_revocations()
    older = path.read_bytes()
    ca.revoke("node-2")
    path.unlink() if damage is None else path.write_bytes(older if damage == b"older" else damage)
    source = source_of(ca.directory)
    source.load()
    with contextlib.suppress(CertsError):  # the next call returns what is known
        source.revocations()
    assert source.revocations().is_revoked(other.certificate)
    with pytest.raises(RevokedError):
        IdentitySource.directory("node-2", ca.directory).load()


def test_a_list_from_a_clock_ahead_is_accepted_once_it_is_valid(
    ca: CertificateAuthority, elsewhere: Path
) -> None:
    source = source_of(elsewhere)
    tls = source.load(at=NOW)
    ca.revoke("node-1", at=NOW + DAY)
    shutil.copy(ca.directory / "crl.pem", elsewhere)
    for _ in range(2):
        with pytest.raises(RevocationListError, match="not valid before") as caught:
            source.revocations(at=NOW)
    assert caught.value.not_before == NOW + DAY
    assert source.revocations(at=NOW + DAY).is_revoked(tls.certificate)


def test_an_older_list_is_refused(ca: CertificateAuthority, elsewhere: Path) -> None:
    ca.write_revocations()
    older = (ca.directory / "crl.pem").read_bytes()
    ca.write_revocations()
    shutil.copy(ca.directory / "crl.pem", elsewhere)
    source = source_of(elsewhere)
    source.revocations()
    (elsewhere / "crl.pem").write_bytes(older)
    with pytest.raises(RevocationListError, match="older"):
        source.revocations()


def test_files_from_elsewhere_are_polled_too(ca: CertificateAuthority, elsewhere: Path) -> None:
    options = TLSOptions(
        cert_file=elsewhere / "node-1-cert.pem",
        key_file=elsewhere / "node-1-key.pem",
        ca_file=elsewhere / "ca-cert.pem",
    )
    source = IdentitySource.of(options)
    first = source.load()
    assert (source.poll(), source.renew(), source.issuer_replaced()) == (None, None, False)
    new = ca.renew("node-1")
    copy_to(ca, elsewhere)
    assert source.poll() == new != first
    ca.revoke("node-1")
    shutil.copy(ca.directory / "crl.pem", elsewhere)
    assert source.revocations().is_revoked(new.certificate)


def test_variables_and_fixed_identities_never_change(
    ca: CertificateAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = ca.issue_in_memory("node-1")
    monkeypatch.setenv("AEGIS_TLS_CERT", tls.certificate_chain.decode())
    monkeypatch.setenv("AEGIS_TLS_KEY", tls.private_key.decode())
    monkeypatch.setenv("AEGIS_TLS_CA", tls.trust_bundle.decode())
    from_environment = IdentitySource.of(TLSOptions(source=CertificateSource.ENV))
    for source in (from_environment, IdentitySource.fixed(tls)):
        assert source.load() == tls
        assert (source.poll(), source.renew(), source.issuer_replaced()) == (None, None, False)
        assert len(source.revocations()) == 0
        assert "PRIVATE" not in repr(source)


def test_a_directory_without_a_ca_gets_none_where_that_is_not_wanted(tmp_path: Path) -> None:
    mistyped = tmp_path / "typo"
    source = IdentitySource.directory("node-1", mistyped, key_type=P256, create_ca=False)
    with pytest.raises(NotFoundError, match="creates no CA: check the name of the directory"):
        source.load()
    assert not mistyped.exists()


def test_a_source_waits_for_the_process_that_creates_the_ca(tmp_path: Path) -> None:
    store = Store(tmp_path)
    source = IdentitySource.directory("node-2", tmp_path, key_type=P256, create_ca=False)
    with ThreadPoolExecutor(1) as threads, store.locked():
        loading = threads.submit(source.load)
        create_session(store, CASpec(key_type=P256), NOW)
    assert loading.result().node_id == "node-2"


def test_new_cas_in_the_files_do_not_bring_back_a_leaf_that_was_renewed_in_memory(
    ca: CertificateAuthority, elsewhere: Path, tmp_path: Path
) -> None:
    source = source_of(elsewhere)
    old = source.load()
    renewed = ca.issue_in_memory("node-1")
    source.adopt(renewed)
    other = CertificateAuthority.create(tmp_path / "other", key_type=KeyType.P256)
    both = (other.directory / "ca-cert.pem").read_bytes() + old.trust_bundle
    (elsewhere / "ca-cert.pem").write_bytes(both)
    assert source.poll() == replace(renewed, trust_bundle=both) == source.current
    assert source.poll() is None
    ca.renew("node-1")
    copy_to(ca, elsewhere)
    newer = source.poll()
    assert newer is not None
    assert newer.certificate not in (old.certificate, renewed.certificate)
