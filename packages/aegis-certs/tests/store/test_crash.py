"""A process may die at any time: it leaves the old state or the new one, and both load."""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import os
import random
import shutil
import stat
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from aegis_certs import (
    AlreadyExistsError,
    CertificateAuthority,
    DirectoryError,
    EnrolmentRefusedError,
    IdentitySource,
    KeyType,
    NotFoundError,
    RotationPhase,
    TLSConfig,
    Token,
    TokenState,
    install_certificate,
    install_identity,
    list_certificates,
    load_or_generate_tls,
    new_enrolment_key_and_csr,
    request_certificate,
)
from aegis_certs._ca import audit_log
from aegis_certs._ca.inventory import Inventory
from aegis_certs._ca.rotation_state import phase_of
from aegis_certs._store import files
from aegis_certs._store.directory import Store
from aegis_certs._x509.identity import alternative_names
from aegis_certs._x509.tls_config import make_tls
from aegis_certs._x509.validity import common_name
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

P256 = KeyType.P256
COMMAND = Path(sysconfig.get_path("scripts")) / "aegis-certs"
NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)


class Dying:
    """The `os` module of our writer, whose process ends at the n-th operation.

    It ends before the operation has an effect, or half-way through it where it is a write.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.done = 0

    def __getattr__(self, name: str) -> Any:
        value = getattr(os, name)
        if not callable(value):
            return value

        def operation(*arguments: Any, **options: Any) -> Any:
            if self.done == self.number:
                if name == "write":
                    os.write(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                os._exit(DEAD)
            self.done += 1
            return value(*arguments, **options)

        return operation


class Full(Dying):
    """The `os` module of our writer; the disk is full at the n-th write only."""

    def __getattr__(self, name: str) -> Any:
        def write(*arguments: Any) -> int:
            self.done += 1
            if self.done == self.number:
                raise OSError(errno.ENOSPC, "No space left on device")
            return os.write(*arguments)

        return write if name == "write" else getattr(os, name)


DEAD = 77


def operations_of(work: Callable[[], object]) -> int:
    """Does the work, and returns the number of operations of our writer."""
    counting = Dying(-1)
    with mock.patch.object(files, "os", counting):
        work()
    return counting.done


def die_at(number: int, work: Callable[[], object]) -> bool:
    """Does the work in a child that ends at the n-th operation; returns whether it ended there."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with mock.patch.object(files, "os", Dying(number)):
                work()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, DEAD)
    return code != 0


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Dies at every operation in the long run, and only at some operations in each other run."""
    if metafunc.function.__name__.endswith("may_die_at_any_operation"):
        some, every = (
            pytest.param(6, id="some"),
            pytest.param(1, id="every", marks=pytest.mark.soak),
        )
        metafunc.parametrize("_steps", [some, every], indirect=True)


STEPS = [1]
"""The distance between the operations at which a test dies."""


@pytest.fixture(autouse=True)
def _steps(request: pytest.FixtureRequest) -> None:
    STEPS[0] = getattr(request, "param", 1)


def die_at_every_operation(
    tmp_path: Path,
    prepare: Callable[[Path], None],
    work: Callable[[Path], object],
    check: Callable[[Path], object],
) -> set[object]:
    """Starts over for every operation of the work, dies there, and checks what is left.

    The outcomes that `check` gives must be of two kinds in all, the old state and the new, and
    once it is the new one it never is the old one again.
    """
    template = tmp_path / "template"
    prepare(template)
    tried = tmp_path / "whole"
    copy(template, tried)
    total = operations_of(lambda: work(tried))
    new = check(tried)
    outcomes = []
    for number in sorted({*range(0, total, STEPS[0]), total - 1}):
        directory = tmp_path / str(number)
        copy(template, directory)
        assert die_at(number, lambda directory=directory: work(directory)), number  # type: ignore[misc]  # bound at once
        assert_keys_are_private(directory)
        outcomes.append(check(directory))
        assert_record_is_complete(directory)
        shutil.rmtree(directory)
    assert total > 10
    assert outcomes[-1] == new
    assert outcomes == sorted(outcomes, key=lambda outcome: outcome == new)
    return set(outcomes)


def copy(template: Path, directory: Path) -> None:
    if template.exists():
        shutil.copytree(template, directory)


def assert_record_is_complete(directory: Path) -> None:
    """Checks that the inventory and the log have every certificate, with unique serial numbers."""
    store = Store(directory)
    entries = list(Inventory.load(store))
    serials = [entry.serial for entry in entries]
    logged = [
        line.get("certificate", {}).get("serial") for line in audit_log.lines(store.audit_path)
    ]
    assert len(set(serials)) == len(serials)
    assert set(serials) <= set(logged)
    for name in store.names():
        chain = store.chain(name)
        assert chain is not None
        assert f"{chain[0].serial_number:x}" in serials
    assert b"PRIVATE" not in (store.audit_path.read_bytes() if store.audit_path.exists() else b"")


def assert_keys_are_private(directory: Path) -> None:
    for path in directory.glob("**/*"):
        if path.is_file() and b"PRIVATE KEY" in path.read_bytes():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def assert_tidy(directory: Path) -> None:
    assert not list(directory.glob("*.next.pem"))
    assert not list(directory.glob(".*.tmp"))


@pytest.fixture
def open_umask() -> object:
    before = os.umask(0)
    yield
    os.umask(before)


def with_a_node(directory: Path) -> None:
    CertificateAuthority.create(directory, key_type=P256, name="CA").issue("node-1", key_type=P256)


def load(directory: Path) -> TLSConfig:
    tls = load_or_generate_tls("node-1", directory, key_type=P256)
    assert tls.bundle.verify(tls.chain, "server").node_id == "node-1"
    assert load_or_generate_tls("node-1", directory) == tls
    return tls


@pytest.mark.usefixtures("open_umask")
def test_a_first_start_may_die_at_any_operation(tmp_path: Path) -> None:
    def start(directory: Path) -> object:
        return load_or_generate_tls("node-1", directory, key_type=P256)

    def check(directory: Path) -> object:
        load(directory)
        assert load_or_generate_tls("node-2", directory, key_type=P256)
        assert_tidy(directory)
        return True

    die_at_every_operation(tmp_path, lambda _: None, start, check)


@pytest.mark.usefixtures("open_umask")
def test_an_init_may_die_at_any_operation(tmp_path: Path) -> None:
    def init(directory: Path) -> object:
        return CertificateAuthority.create(directory, key_type=P256)

    def check(directory: Path) -> object:
        try:
            ca = CertificateAuthority.load(directory)
        except NotFoundError:
            CertificateAuthority.create(directory, key_type=P256).issue("node-1", key_type=P256)
            return None
        with pytest.raises(AlreadyExistsError):
            init(directory)
        load(directory)
        assert_tidy(directory)
        return ca.certificate.issuer == ca.certificate.subject

    assert die_at_every_operation(tmp_path, lambda _: None, init, check) == {None, True}


@pytest.mark.usefixtures("open_umask")
def test_an_init_below_a_root_may_die_at_any_operation(tmp_path: Path) -> None:
    def init(directory: Path) -> object:
        root = directory / "usb"
        return CertificateAuthority.create(directory, key_type=P256, root_directory=root)

    def check(directory: Path) -> object:
        try:
            CertificateAuthority.load(directory)
            found = True
        except NotFoundError:
            init(directory)  # with the root that exists already
            found = False
        with pytest.raises(AlreadyExistsError):
            init(directory)
        root = CertificateAuthority.load(directory / "usb")
        shutil.rmtree(root.directory)  # moved away
        tls = load(directory)
        assert len(tls.chain) == 2
        assert tls.bundle.certificates[-1] == root.certificate
        assert_tidy(directory)
        return found

    assert die_at_every_operation(tmp_path, lambda _: None, init, check) == {False, True}


@pytest.mark.usefixtures("open_umask")
def test_a_division_of_the_audit_log_may_die_at_any_operation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(directory: Path) -> None:
        ca = CertificateAuthority.create(directory, key_type=P256)
        for node_id in ("node-1", "node-2", "node-3"):
            ca.issue(node_id, key_type=P256)
        ca.revoke("node-1")
        monkeypatch.setattr(audit_log, "PART", 1024)

    def divide(directory: Path) -> object:
        return CertificateAuthority.load(directory).tokens()

    def check(directory: Path) -> object:
        path = directory / "audit.jsonl"
        divided = b'"action":"continue"' in path.read_bytes()
        divide(directory)  # the next session completes it
        assert [path.name for path in directory.glob("audit-*")] == ["audit-1.jsonl"]
        for name in ("crl.pem", "issued.json"):
            (directory / name).unlink()
        (revocation,) = CertificateAuthority.load(directory).revoke("node-1")
        assert revocation.serial in path.read_text()
        return divided

    assert die_at_every_operation(tmp_path, prepare, divide, check) == {False, True}


@pytest.mark.usefixtures("open_umask")
def test_an_issue_may_die_at_any_operation(tmp_path: Path) -> None:
    def issue(directory: Path) -> object:
        return CertificateAuthority.load(directory).issue(
            "node-1", hosts=["a.example"], key_type=P256
        )

    def check(directory: Path) -> object:
        hosts = alternative_names(load(directory).certificate).dns
        CertificateAuthority.load(directory).issue("node-2", key_type=P256)
        assert_tidy(directory)
        return hosts

    found = die_at_every_operation(tmp_path, with_a_node, issue, check)
    assert found == {("node-1",), ("node-1", "a.example")}


def test_a_certificate_that_a_full_disk_did_not_install_is_not_listed(tmp_path: Path) -> None:
    directory = tmp_path / "certs"
    with_a_node(directory)
    ca = CertificateAuthority.load(directory)
    failures = 0
    for number in range(1, 100):
        full = Full(number)
        with mock.patch.object(files, "os", full), contextlib.suppress(DirectoryError):
            failures += 1
            ca.issue("node-2", key_type=P256)
            failures -= 1
        listed = {one.id: one for one in list_certificates(directory) if one.state == "valid"}
        assert all(one.path for one in listed.values()), number
        load(directory)
        if full.done < number:
            break
    assert failures > 3
    assert load_or_generate_tls("node-2", directory)


@pytest.mark.usefixtures("open_umask")
def test_a_renewal_may_die_at_any_operation(tmp_path: Path) -> None:
    def prepare(directory: Path) -> None:
        past = NOW - 80 * DAY
        ca = CertificateAuthority.create(directory, key_type=P256, at=past)
        for node_id in ("node-1", "node-3"):
            ca.issue(node_id, key_type=P256, at=past)
        ca.revoke("node-3", at=past)  # this list is signed again too

    def renew(directory: Path) -> object:
        return CertificateAuthority.load(directory).renew_due()

    def check(directory: Path) -> object:
        tls = load_again(directory)
        load(directory)
        source = IdentitySource.directory("node-1", directory)
        source.load()
        assert len(source.revocations()) == 1
        return tls.not_after > NOW + 80 * DAY

    found = die_at_every_operation(tmp_path, prepare, renew, check)
    assert found == {False, True}


def test_a_revocation_may_die_at_any_operation(tmp_path: Path) -> None:
    def revoke(directory: Path) -> object:
        return CertificateAuthority.load(directory).revoke("node-1")

    def check(directory: Path) -> object:
        source = IdentitySource.directory("node-2", directory, key_type=P256)
        source.load()
        return len(source.revocations())

    assert die_at_every_operation(tmp_path, with_a_node, revoke, check) == {0, 1}


def prepared(directory: Path) -> None:
    with_a_node(directory)
    CertificateAuthority.load(directory).prepare_rotation()


def activated(directory: Path) -> None:
    prepared(directory)
    ca = CertificateAuthority.load(directory)
    ca.activate_rotation(confirm=True)
    ca.renew("node-1")
    ca.write_revocations()


@pytest.mark.parametrize("step", ["prepare", "activate", "retire"])
def test_a_rotation_may_die_at_any_operation(tmp_path: Path, step: str) -> None:
    before: Callable[[Path], None] = {
        "prepare": with_a_node,
        "activate": prepared,
        "retire": activated,
    }[step]

    def rotate(directory: Path) -> object:
        ca = CertificateAuthority.load(directory)
        if step == "prepare":
            return ca.prepare_rotation()
        return ca.activate_rotation(confirm=True) if step == "activate" else ca.retire_rotation()

    def check(directory: Path) -> object:
        tls = load_again(directory)  # before the recovery
        assert phase_of(Store(directory)) in RotationPhase
        ca = CertificateAuthority.load(directory)
        state = ca.rotation()
        names = {common_name(ca.subject) for ca in load_again(directory).bundle.certificates}
        assert {state.issuing, state.next, state.old} - {None} == names
        new = ca.issue("node-2", key_type=P256)
        assert new.bundle.verify(tls.chain, "server")
        assert tls.bundle.verify(new.chain, "client") or step == "activate"
        assert_tidy(directory)
        keys = {path.name for path in directory.glob("ca*-key.pem")}
        assert len(keys) == (1 if state.phase is RotationPhase.NONE else 2)
        while state.phase is not RotationPhase.NONE:  # and the rotation can be finished
            if state.phase is RotationPhase.PREPARED:
                state = ca.activate_rotation(confirm=True)
            ca.renew_due()
            state = ca.retire_rotation()
        return len(names), state.issuing == "CA"

    outcomes = die_at_every_operation(tmp_path, before, rotate, check)
    assert len(outcomes) <= 2


def load_again(directory: Path) -> TLSConfig:
    pair, bundle = Store(directory).pair("node-1"), Store(directory).chain("ca")
    assert pair is not None
    assert bundle is not None
    tls = make_tls(pair, bundle)
    assert tls.bundle.verify(tls.chain, "server").node_id == "node-1"
    return tls


def test_an_install_may_die_at_any_operation(tmp_path: Path) -> None:
    def prepare(directory: Path) -> None:
        with_a_node(directory)
        request = request_certificate("node-1", directory, key_type=P256).read_bytes()
        ca = CertificateAuthority.load(directory)
        (directory / "signed").write_bytes(ca.sign(request, hosts=["a.example"]).pem)

    def install(directory: Path) -> object:
        return install_certificate((directory / "signed").read_bytes(), directory)

    def check(directory: Path) -> object:
        return alternative_names(load(directory).certificate).dns

    found = die_at_every_operation(tmp_path, prepare, install, check)
    assert found == {("node-1",), ("node-1", "a.example")}


KEYS = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]


def csr(number: int) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(KEYS[number], hashes.SHA256()).public_bytes(Encoding.DER)


def token_in(directory: Path) -> Token:
    return Token.parse((directory / "token").read_text())


def enroll(directory: Path, number: int = 0) -> x509.Certificate:
    ca, token = CertificateAuthority.load(directory), token_in(directory)
    given = ca.enroll(csr(number), token.certificate, issuer_id="ca-1")
    return x509.load_der_x509_certificate(given.chain[0])


def renew_for(directory: Path, number: int = 1) -> x509.Certificate:
    leaf = x509.load_pem_x509_certificate((directory / "leaf").read_bytes())
    ca = CertificateAuthority.load(directory)
    given = ca.renew_for(csr(number), leaf, issuer_id="ca-1")
    return x509.load_der_x509_certificate(given.chain[0])


def with_a_token(directory: Path) -> None:
    with_a_node(directory)
    token = CertificateAuthority.load(directory).create_token("orders-1")
    (directory / "token").write_text(str(token))


def with_an_enrolled_node(directory: Path) -> None:
    with_a_token(directory)
    (directory / "leaf").write_bytes(enroll(directory).public_bytes(Encoding.PEM))


def test_a_token_may_die_at_any_operation(tmp_path: Path) -> None:
    def create(directory: Path) -> object:
        return CertificateAuthority.load(directory).create_token("orders-1")

    def check(directory: Path) -> object:
        states = [one.state for one in CertificateAuthority.load(directory).tokens()]
        with_a_token_more = CertificateAuthority.load(directory).create_token("orders-2")
        assert with_a_token_more.node_id == "orders-2"
        assert_tidy(directory)
        return tuple(states)

    found = die_at_every_operation(tmp_path, with_a_node, create, check)
    assert found == {(), (TokenState.UNUSED,)}


def test_a_cancellation_may_die_at_any_operation(tmp_path: Path) -> None:
    def cancel(directory: Path) -> object:
        return CertificateAuthority.load(directory).cancel_token("orders-1")

    def check(directory: Path) -> object:
        (token,) = CertificateAuthority.load(directory).tokens()
        if token.state is TokenState.CANCELLED:
            with pytest.raises(EnrolmentRefusedError, match="cancelled"):
                enroll(directory)
        return token.state

    found = die_at_every_operation(tmp_path, with_a_token, cancel, check)
    assert found == {TokenState.UNUSED, TokenState.CANCELLED}


@pytest.mark.parametrize("what", ["enrolment", "renewal"])
def test_an_answer_of_an_issuer_may_die_at_any_operation(tmp_path: Path, what: str) -> None:
    prepare, ask, number = {
        "enrolment": (with_a_token, enroll, 0),
        "renewal": (with_an_enrolled_node, renew_for, 1),
    }[what]

    def check(directory: Path) -> object:
        entries = Inventory.load(Store(directory)).of_node("orders-1")
        leaf = ask(directory, number)  # the caller asks again, since it got no answer
        assert ask(directory, number) == leaf
        assert leaf.public_key() == KEYS[number].public_key()
        with pytest.raises(EnrolmentRefusedError, match="thief"):
            ask(directory, 2)
        after = Inventory.load(Store(directory)).of_node("orders-1")
        assert len(after) == (1 if what == "enrolment" else 2)
        (directory / "issued.json").unlink()  # and the audit log says the same
        with pytest.raises(EnrolmentRefusedError, match="thief"):
            ask(directory, 2)
        assert_tidy(directory)
        return len(entries)

    found = die_at_every_operation(tmp_path, prepare, lambda one: ask(one, number), check)
    assert len(found) == 2


@pytest.mark.parametrize("what", ["enrolment", "renewal"])
def test_an_answer_that_a_full_disk_prevents_costs_neither_token_nor_certificate(
    tmp_path: Path, what: str
) -> None:
    failures = 0
    for number in range(1, 100):
        directory = tmp_path / str(number)
        with_an_enrolled_node(directory) if what == "renewal" else with_a_token(directory)
        ask = renew_for if what == "renewal" else enroll
        before = contents(directory)
        full = Full(number)
        failed = False
        with mock.patch.object(files, "os", full):
            try:
                ask(directory)
            except DirectoryError:
                failed = True
        if failed:
            failures += 1
            assert contents(directory) == before, number
            assert ask(directory, 2).public_key() == KEYS[2].public_key()  # nobody has got one
        if full.done < number:
            break
    assert failures >= 2


def contents(directory: Path) -> dict[str, object]:
    """What the CA has recorded; a part of a line in the log counts for nothing."""
    inventory = Inventory.load(Store(directory))
    return {"certificates": list(inventory), "tokens": list(inventory.tokens())}


@pytest.mark.usefixtures("open_umask")
def test_a_machine_that_enrols_may_die_at_any_operation(tmp_path: Path) -> None:
    def enrol(directory: Path) -> TLSConfig:
        away, token = directory / "away", token_in(directory)
        request = new_enrolment_key_and_csr("orders-1", away, key_type=P256)
        ca = CertificateAuthority.load(directory)
        chain = ca.enroll(request.csr, token.certificate, issuer_id="ca-1").chain
        return install_identity(away, "orders-1", request.key_pem, chain, token.bundle)

    def check(directory: Path) -> object:
        away = directory / "away"
        was_there = bool(Store(away).names())
        # The token is not lost, whatever was answered.
        tls = load_or_generate_tls("orders-1", away) if was_there else enrol(directory)
        assert tls.bundle.verify(tls.chain, "server").node_id == "orders-1"
        assert stat.S_IMODE(away.stat().st_mode) == 0o700
        again = new_enrolment_key_and_csr("orders-1", away, key_type=P256)
        assert again.key_pem != tls.private_key
        renewed = CertificateAuthority.load(directory).renew_for(
            again.csr, tls.certificate, issuer_id="ca-1"
        )
        assert install_identity(away, "orders-1", again.key_pem, renewed.chain)
        assert_tidy(away)
        return was_there

    found = die_at_every_operation(tmp_path, with_a_token, enrol, check)
    assert found == {False, True}


def test_the_commands_may_be_killed_at_any_time(tmp_path: Path) -> None:
    rng = random.Random(7)
    for number in range(6):
        directory = tmp_path / str(number)
        for command in (["init", "--key-type", "p256"], ["issue", "node-1", "--key-type", "p256"]):
            process = subprocess.Popen(
                [COMMAND, *command, "--dir", str(directory)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                process.wait(timeout=rng.uniform(0.15, 0.45))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            try:
                CertificateAuthority.create(directory, key_type=P256)
            except AlreadyExistsError:
                CertificateAuthority.load(directory)
        tls = load_or_generate_tls("node-1", directory, key_type=P256)
        assert tls.bundle.verify(tls.chain, "server").node_id == "node-1"
        assert_keys_are_private(directory)
        with_lock = CertificateAuthority.load(directory).issue("node-2", key_type=P256)
        assert with_lock.trust_bundle == tls.trust_bundle
        assert_tidy(directory)
