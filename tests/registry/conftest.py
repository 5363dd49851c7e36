"""Shared by the tests of registries: etcd of a test run, and identities that it accepts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from aegis_certs import CertificateAuthority

from .etcd import Etcd, check_installed

StartEtcd = Callable[..., Etcd]


@pytest.fixture
def start_etcd(
    ca: CertificateAuthority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartEtcd]:
    """Starts clusters of etcd; kills them at the end."""
    check_installed()
    started: list[Etcd] = []

    def start(size: int = 1, **options: bool) -> Etcd:
        cluster = Etcd(tmp_path_factory.mktemp("etcd"), ca, size, **options)
        started.append(cluster)
        cluster.start()
        return cluster

    yield start
    for cluster in started:
        cluster.kill()
