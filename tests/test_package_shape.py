"""Four wheels, one habit: who knows one package finds everything in the others."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement  # comes with pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))
SAME_EVERYWHERE = ("requires-python", "license", "license-files", "readme", "authors")


def project(package):
    return tomllib.loads((package / "pyproject.toml").read_text())


def module(package):
    return package / "src" / package.name.replace("-", "_")


@pytest.fixture(params=PACKAGES, ids=lambda path: path.name)
def package(request):
    return request.param


def test_all_four_wheels_are_here():
    assert [path.name for path in PACKAGES] == [
        "aegis-certs",
        "aegis-cli",
        "aegis-core",
        "aegis-discovery",
    ]


def test_readme_opens_with_the_name_and_tells_how_to_install(package):
    readme = (package / "README.md").read_text()
    assert readme.startswith(f"# {package.name}\n")
    assert len(readme.split()) > 50


def test_changelog_tells_of_the_version_or_of_what_comes(package):
    version = project(package)["project"]["version"]
    changelog = (package / "CHANGELOG.md").read_text()
    assert f"## [{version}]" in changelog or "## [Unreleased]" in changelog


def test_license_is_the_one_of_the_repository(package):
    assert (package / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_package_declares_that_it_is_typed(package):
    assert (module(package) / "py.typed").is_file()
    assert "Typing :: Typed" in project(package)["project"]["classifiers"]


def test_package_has_its_own_tests(package):
    assert list((package / "tests").glob("test_*.py"))


def test_metadata_is_the_same_as_in_the_other_packages(package):
    first = project(PACKAGES[0])
    ours = project(package)
    assert ours["build-system"] == first["build-system"]
    assert [ours["project"][key] for key in SAME_EVERYWHERE] == [
        first["project"][key] for key in SAME_EVERYWHERE
    ]


def test_siblings_are_required_with_a_range_that_holds_their_version(package):
    versions = {path.name: project(path)["project"]["version"] for path in PACKAGES}
    for line in project(package)["project"]["dependencies"]:
        requirement = Requirement(line)
        if requirement.name in versions:
            assert requirement.specifier.contains(versions[requirement.name]), line
            assert {part.operator for part in requirement.specifier} == {">=", "<"}, line


def test_shared_dependencies_have_the_same_range_in_every_package():
    ranges = {}
    for package in PACKAGES:
        for line in project(package)["project"]["dependencies"]:
            requirement = Requirement(line)
            ranges.setdefault(requirement.name, set()).add(str(requirement.specifier))
    assert {name: found for name, found in ranges.items() if len(found) > 1} == {}
