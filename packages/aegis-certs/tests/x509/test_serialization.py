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


def loaded_for_openssh(imports: str) -> set[str]:
    """Returns the modules of OpenSSH's formats that a process has loaded after some imports."""
    code = (
        f"import sys; {imports}; print(*[n for n in sys.modules if 'ssh' in n or 'ciphers' in n])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


def test_no_process_loads_what_openssh_needs() -> None:
    """Unless `cryptography.x509` does so itself, as in cryptography 45."""
    ours = "from aegis_certs import CertificateSource, load_or_generate_tls, load_tls"
    assert loaded_for_openssh(ours) <= loaded_for_openssh("import cryptography.x509")
