"""One evaluation of a certificate, of which list, show, verify and doctor are views."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from aegis_certs import (
    CertificateAuthority,
    ExpiredError,
    IdentityError,
    KeyType,
    RevokedError,
    UntrustedError,
)
from aegis_certs._inspect.evaluate import Evaluation, Trust, evaluate, evaluate_directory
from aegis_certs._store.directory import Store

NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
DAY = dt.timedelta(days=1)


@pytest.fixture
def store(ca: CertificateAuthority) -> Store:
    ca.issue("orders-1", key_type=KeyType.P256)
    return Store(ca.directory)


def evaluation(store: Store, node_id: str, at: dt.datetime | None = None) -> Evaluation:
    chain, at = store.chain(node_id), at or NOW
    assert chain is not None
    return evaluate(chain, at, Trust.load(store, at), node_id=node_id)


def test_a_valid_certificate_has_facts_and_no_finding(store: Store) -> None:
    found = evaluation(store, "orders-1")
    assert (found.info.state, found.info.days_left) == ("valid", 90)
    assert found.usages == ("server", "client")
    errors = (found.error, found.date_error, found.chain_error, found.revocation_error)
    assert errors == (None, None, None, None)


def test_the_chain_of_an_expired_certificate_is_checked_when_it_was_valid(store: Store) -> None:
    found = evaluation(store, "orders-1", NOW + 100.5 * DAY)  # it may be issued after NOW
    assert (found.info.state, found.info.days_left) == ("expired", -10)
    assert isinstance(found.date_error, ExpiredError)
    assert found.chain_error is None


@pytest.mark.parametrize(
    ("days", "left"), [(88.5, 1), (89.5, 0), (90.5, 0), (91, -1), (91.5, -1), (92.5, -2)]
)
def test_days_left_are_whole_days_before_and_after_the_end(
    store: Store, days: float, left: int
) -> None:
    chain = store.chain("orders-1")
    assert chain is not None
    at = chain[0].not_valid_after_utc + (days - 90) * DAY
    assert evaluation(store, "orders-1", at).info.days_left == left


def test_a_revoked_certificate_still_leads_to_its_ca(
    ca: CertificateAuthority, store: Store
) -> None:
    ca.revoke("orders-1")
    found = evaluation(store, "orders-1")
    assert found.info.state == "revoked"
    assert isinstance(found.revocation_error, RevokedError)
    assert found.error is found.revocation_error
    assert (found.date_error, found.chain_error) == (None, None)


def test_a_certificate_of_another_ca_is_untrusted(store: Store, tmp_path: Path) -> None:
    other = CertificateAuthority.create(tmp_path / "other", key_type=KeyType.P256)
    chain = other.issue_in_memory("orders-1").chain
    found = evaluate(chain, NOW, Trust.load(store, NOW))
    assert found.info.state == "untrusted"
    assert isinstance(found.chain_error, UntrustedError)
    assert found.dates == "valid"


def test_a_certificate_of_another_node_is_untrusted_although_its_chain_is_good(
    store: Store,
) -> None:
    chain = store.chain("orders-1")
    assert chain is not None
    found = evaluate(chain, NOW, Trust.load(store, NOW), node_id="orders-2")
    assert isinstance(found.error, IdentityError)
    assert (found.info.state, found.chain_error) == ("untrusted", None)


def test_without_a_readable_bundle_nothing_is_trusted(store: Store) -> None:
    store.certificate_path("ca").write_text("junk")
    (ca, node), _ = evaluate_directory(store, NOW)
    assert (ca.info.state, node.info.state) == ("unreadable", "untrusted")


def test_without_trust_only_dates_are_checked(store: Store) -> None:
    chain = store.chain("orders-1")
    assert chain is not None
    found = evaluate(chain, NOW + 70 * DAY)
    assert (found.info.state, found.error) == ("expiring", None)


def test_a_ca_leads_to_itself_if_the_bundle_has_it(store: Store, tmp_path: Path) -> None:
    other = CertificateAuthority.create(tmp_path / "other", key_type=KeyType.P256)
    trust = Trust.load(store, NOW)
    own = store.chain("ca")
    assert own is not None
    assert evaluate(own, NOW, trust).chain_error is None
    foreign = evaluate((other.certificate,), NOW, trust)
    assert isinstance(foreign.chain_error, UntrustedError)
