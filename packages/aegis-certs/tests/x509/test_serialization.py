"""What is taken from where `cryptography` has it is what its public package has."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
from aegis_certs._x509 import serialization
from cryptography.hazmat.primitives import serialization as public


def names_are_public() -> bool:
    names = serialization.__all__
    return all(getattr(serialization, name) is getattr(public, name) for name in names)


def test_all_names_are_those_of_the_public_package() -> None:
    assert names_are_public()


def test_another_version_gives_them_by_its_public_package(monkeypatch: pytest.MonkeyPatch) -> None:
    private = "cryptography.hazmat.primitives._serialization"
    with monkeypatch.context() as other_version:
        other_version.setitem(sys.modules, private, None)
        importlib.reload(serialization)
        assert names_are_public()
    importlib.reload(serialization)


def test_no_process_loads_what_openssh_needs() -> None:
    code = (
        "import sys; from aegis_certs import CertificateSource, load_or_generate_tls, load_tls; "
        "print([name for name in sys.modules if 'ssh' in name or 'ciphers' in name])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
