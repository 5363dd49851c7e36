"""Who may ask an issuer for certificates, and how often. Without sockets."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from aegis_certs import CertificateAuthority, DirectoryError, KeyType, new_enrolment_key_and_csr
from aegis_core._access.caller import Caller
from aegis_core._rate_limit import CERTIFICATES
from aegis_core._server import issuer as issuer_module
from aegis_core._server.issuer import IssuerService
from aegis_core._server.mesh_protocol import RequestRefusedError
from aegis_core._server.rejections import NOT_ISSUED
from aegis_discovery.proto import mesh_pb2


@pytest.fixture
def ca(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority.create(tmp_path / "ca", key_type=KeyType.P256)


def _caller(ca: CertificateAuthority, node_id: str) -> Caller:
    tls = ca.issue_in_memory(node_id, key_type=KeyType.P256)
    return Caller(node_id, tls.certificate)


def _csr() -> bytes:
    return new_enrolment_key_and_csr("x", key_type=KeyType.P256).csr


def test_a_member_gets_its_next_certificate_and_the_documents(ca: CertificateAuthority) -> None:
    documents = [mesh_pb2.SignedDocument(body=b"x" * 1000) for _ in range(3)]
    service = IssuerService("ca-1", ca, lambda: documents)
    answer = service.renew(_csr(), _caller(ca, "orders-1"))
    assert len(answer.chain) == 1
    assert list(answer.documents) == documents


def test_an_answer_stays_below_the_limit_of_messages(ca: CertificateAuthority) -> None:
    documents = [mesh_pb2.SignedDocument(body=bytes(400_000)) for _ in range(5)]
    answer = IssuerService("ca-1", ca, lambda: documents).renew(_csr(), _caller(ca, "orders-1"))
    assert answer.ByteSize() < 1024 * 1024
    assert answer.documents


def test_refusals_have_one_text_and_the_log_has_the_reason(
    ca: CertificateAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    service, caller = IssuerService("ca-1", ca), _caller(ca, "orders-1")
    for csr in (b"", b"garbage", bytes(20_000)):
        with pytest.raises(RequestRefusedError) as error:
            service.renew(csr, caller)
        assert (error.value.code, error.value.text) == NOT_ISSUED[:2]
    assert all("orders-1" in r.message for r in caplog.records if r.levelno >= logging.WARNING)
    assert any("20000 bytes" in r.message for r in caplog.records)


def test_a_failure_of_the_ca_is_no_refusal_and_shows_nothing(
    ca: CertificateAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise DirectoryError(ca.directory, "no space left")

    monkeypatch.setattr(CertificateAuthority, "renew_for", fail)
    with pytest.raises(RequestRefusedError) as error:
        IssuerService("ca-1", ca).renew(_csr(), _caller(ca, "orders-1"))
    assert error.value.code == "UNAVAILABLE"
    assert str(ca.directory) not in error.value.text


def test_requests_of_one_caller_and_of_all_are_limited(
    ca: CertificateAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuer_module, "MAX_WAITING", 10)
    service = IssuerService("ca-1", ca)
    with ExitStack() as waiting:
        greedy = _caller(ca, "greedy")
        for _ in range(CERTIFICATES.open):
            waiting.enter_context(service.entered(greedy, 0.0))
        with pytest.raises(RequestRefusedError, match="4 requests for certificates open"):
            waiting.enter_context(service.entered(greedy, 0.0))
        # Workers share an identity, and have its limits together.
        waiting.enter_context(service.entered(greedy, 0.0, workers=2))
        for number in range(5):
            waiting.enter_context(service.entered(_caller(ca, f"node-{number}"), 0.0))
        with pytest.raises(RequestRefusedError, match="10 requests wait") as error:
            waiting.enter_context(service.entered(_caller(ca, "late"), 0.0))
        assert error.value.code == "RESOURCE_EXHAUSTED"
    with service.entered(_caller(ca, "late"), 0.0):
        pass


def test_a_caller_that_asks_all_the_time_is_slowed_down(ca: CertificateAuthority) -> None:
    service, greedy = IssuerService("ca-1", ca), _caller(ca, "greedy")
    served = 0
    for second in range(100):
        for _ in range(10):
            try:
                with service.entered(greedy, float(second)):
                    served += 1
            except RequestRefusedError:
                pass
    assert served <= CERTIFICATES.burst + 100 * CERTIFICATES.per_second
