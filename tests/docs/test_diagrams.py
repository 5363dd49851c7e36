"""The rendered diagrams are checked in and must match their sources."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
SOURCES = sorted((DOCS / "diagrams").glob("*.mmd"))


def test_every_svg_is_rendered_from_its_current_source():
    command = [sys.executable, DOCS.parent / "scripts" / "render_diagrams.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_an_svg_contains_text_and_needs_no_other_file(source):
    svg = (DOCS / "_static" / "diagrams" / f"{source.stem}.svg").read_text()
    ET.fromstring(svg)  # noqa: S314 - our own file
    assert "<text" in svg
    assert "foreignObject" not in svg
    assert re.findall(r"(?:href=|url\(|@import )[\"']?https?:", svg) == []


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_a_diagram_is_shown_on_some_page(source):
    pages = "".join(page.read_text() for page in DOCS.glob("**/*.md") if "_build" not in page.parts)
    assert f"diagrams/{source.stem}.svg)" in pages
