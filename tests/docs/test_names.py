"""The modules and constants that pages name must exist and have the values that the pages say."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted(ROOT.glob("docs/**/*.md")) if "_build" not in page.parts),
]
NAME = re.compile(r"\baegis_(?:certs|discovery|core|cli)(?:\.\w+)+")
LIMIT = re.compile(
    r"^\|.*?\| (?P<figure>\d[\d\s.]*?)(?:\s(?P<unit>KiB|MiB|s))? \|.*`(?P<name>aegis_[\w.]+)` \|$",
    re.MULTILINE,
)
UNITS = {None: 1, "s": 1, "KiB": 1024, "MiB": 1024 * 1024}


def resolve(name):
    """Returns the module or attribute of a dotted name."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            found = getattr(found, attribute)
        return found
    raise LookupError(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_dotted_name_on_a_page_exists(page):
    missing = set()
    for name in set(NAME.findall(page.read_text())):
        try:
            resolve(name)
        except (LookupError, AttributeError):
            missing.add(name)
    assert missing == set()


def test_every_test_that_the_upgrade_page_names_exists():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/reference/upgrade.md").read_text()))
    tests = "".join(file.read_text() for file in ROOT.glob("packages/*/tests/**/test_*.py"))
    assert named
    assert {name for name in named if f"def {name}(" not in tests} == set()


@pytest.mark.parametrize(
    "limit",
    list(LIMIT.finditer((ROOT / "docs/reference/protocol.md").read_text())),
    ids=lambda limit: limit["name"],
)
def test_a_limit_on_the_protocol_page_equals_the_constant_in_the_code(limit):
    figure = float("".join(limit["figure"].split())) * UNITS[limit["unit"]]
    assert resolve(limit["name"]) == figure


def test_the_diagram_of_rooms_shows_every_room():
    shown = (ROOT / "docs" / "diagrams" / "rooms.mmd").read_text()
    rooms = {
        folder.name
        for package in ROOT.glob("packages/*/src/aegis_*")
        for folder in package.iterdir()
        if (folder / "__init__.py").exists() and folder.name not in {"aio", "testing"}
    }
    assert {room for room in rooms if f'"{room}<br/>' not in shown} == set()
