"""The reference is written by hand; every public name must be in it."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference"
MODULES = ["aegis_certs", "aegis_discovery", "aegis_discovery.aio", "aegis_core", "aegis_core.aio"]


def documented(page):
    """Returns the full names in the autodoc directives of a page."""
    names, module = set(), ""
    for kind, name in re.findall(r"^\.\. (currentmodule|auto\w+):: (\S+)$", page, re.MULTILINE):
        if kind == "currentmodule":
            module = name
        elif kind == "automodule":
            names.update(f"{name}.{member}" for member in importlib.import_module(name).__all__)
        else:
            names.add(f"{module}.{name}")
    return names


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_is_in_the_reference(name):
    package = name.partition(".")[0]
    page = (REFERENCE / f"{package.replace('_', '-')}.md").read_text()
    module, found = importlib.import_module(name), documented(page)
    for member in module.__all__:
        described = {f"{home}.{member}" for home in (name, package, f"{package}.errors")} & found
        home = inspect.getmodule(getattr(module, member))
        is_reexported = home is not None and home.__name__.partition(".")[0] != package
        assert described or (is_reexported and f"`{member}`" in page), member
