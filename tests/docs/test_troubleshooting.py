"""The page on troubleshooting knows every error, and the list of texts is that of the sources."""

import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/guides/troubleshooting.md").read_text()
PACKAGES = ["aegis_certs", "aegis_discovery", "aegis_core", "aegis_cli"]
# Only the classes below them are raised.
ROOTS = {"CertsError", "VerificationError", "DiscoveryError", "MeshError", "CallerError"}


@pytest.fixture(scope="module")
def texts():
    """All texts by class, as the sources have them."""
    sys.path.insert(0, str(ROOT / "docs" / "_ext"))
    try:
        error_texts = importlib.import_module("error_texts")
    finally:
        sys.path.pop(0)
    found = {}
    for package in PACKAGES:
        for name, of_class in error_texts.texts_of(package).items():
            found.setdefault(name, set()).update(of_class)
    return found


def classes():
    for package in PACKAGES:
        module = importlib.import_module(f"{package}.errors")
        for name in module.__all__:
            if inspect.isclass(getattr(module, name)):
                yield name


def test_every_class_of_error_has_a_cause_and_a_remedy():
    table = PAGE.partition("## Every class of error")[2]
    rows = re.findall(r"^\| `(\w+)` \| (.{8,}) \| (.{8,}) \|$", table, re.MULTILINE)
    assert [name for name, _, _ in rows] == list(dict.fromkeys(name for name, _, _ in rows))
    assert {name for name, _, _ in rows} == set(classes()), "each needs a row, with both"


def test_every_answer_to_a_call_has_its_row(texts):
    """What a node answers itself, with its status code."""
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    answers = texts["Rejection"] | texts["RequestRefusedError"]
    missing = set()
    for answer in answers:
        code, _, details = answer.partition(": ")
        said = details.partition("; ")[0].replace("…", "...")
        if re.search("[a-z]{3}", said) and not any(said in row for row in rows):
            missing.add(f"{code}: {said}")
    assert missing == set(), "each needs a row in docs/guides/troubleshooting.md"


def test_the_list_has_texts_of_every_class_that_is_raised(texts):
    assert set(classes()) - set(texts) - ROOTS == set()


def test_the_list_has_what_an_error_says(texts):
    """Errors that are raised here, against the list that is read from the sources."""
    from aegis_certs import CertificateAuthority, CertsError, load_or_generate_tls
    from aegis_core import MeshError, Node
    from aegis_discovery import DiscoveryError, connect

    def said(call):
        with pytest.raises((CertsError, MeshError, DiscoveryError)) as caught:
            call()
        return type(caught.value).__name__, str(caught.value)

    raised = [
        said(lambda: CertificateAuthority.load("/nowhere")),
        said(lambda: load_or_generate_tls("Orders")),
        said(lambda: connect(node_id="client")),
        said(lambda: connect("10.0.0.7", node_id="client")),
        said(lambda: Node("orders-1", address="0.0.0.0:1", boundary="zone")),
        said(lambda: Node("orders-1", address="0.0.0.0:1", services="orders")),
    ]
    for name, text in raised:
        patterns = [re.escape(known).replace("…", ".+") for known in texts[name]]
        assert any(re.fullmatch(pattern, text) for pattern in patterns), (name, text)
