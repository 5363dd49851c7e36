"""All four packages have the same shape, and sources that are easy to find and to read."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement  # pytest depends on it

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))
SAME_EVERYWHERE = ("requires-python", "license", "license-files", "readme", "authors")

MAX_LINES = 400
"""Lines of a module. A longer one usually has a second subject that deserves its own module."""

MAX_ENTRIES = 20
"""Rooms and modules at the top of a package."""

MAX_MODULES = 20
"""Modules in one room."""


def project(package):
    return tomllib.loads((package / "pyproject.toml").read_text())


def module(package):
    return package / "src" / package.name.replace("-", "_")


def sources(folder, pattern):
    """Returns the modules in a folder; generated code does not count."""
    return [path for path in folder.glob(pattern) if "_pb2" not in path.name]


@pytest.fixture(params=PACKAGES, ids=lambda path: path.name)
def package(request):
    return request.param


def test_the_workspace_has_four_packages():
    assert [path.name for path in PACKAGES] == [
        "aegis-certs",
        "aegis-cli",
        "aegis-core",
        "aegis-discovery",
    ]


def test_readme_starts_with_the_name_of_the_package(package):
    readme = (package / "README.md").read_text()
    assert readme.startswith(f"# {package.name}\n")
    assert len(readme.split()) > 50


def test_readme_links_to_nothing_that_the_package_does_not_carry(package):
    # An index shows it outside of the repository, where a relative link leads nowhere.
    links = re.findall(r"\]\(([^)]+)\)", (package / "README.md").read_text())
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


def test_readme_installs_as_the_install_page_does(package):
    assert_on_the_install_page(package / "README.md", package.name)


def test_readme_of_the_repository_installs_as_the_install_page_does():
    assert_on_the_install_page(ROOT / "README.md", "aegis-cli")


def assert_on_the_install_page(readme, package):
    """The commands that install are those of the page, which the long tests run."""
    commands = re.findall(r"^\$ (.+)$", readme.read_text(), re.MULTILINE)
    installs = [command for command in commands if re.search(r"wheels|venv|1!", command)]
    assert installs
    page = (ROOT / "docs" / "learn" / "install.md").read_text().replace("--quiet ", "")
    for command in installs:
        assert f"$ {command.replace(package, 'aegis-cli')}\n" in page


def test_changelog_has_a_section_for_this_version_or_for_unreleased_changes(package):
    version = project(package)["project"]["version"]
    changelog = (package / "CHANGELOG.md").read_text()
    assert f"## [{version}]" in changelog or "## [Unreleased]" in changelog


def test_package_has_the_license_of_the_repository(package):
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


def test_requirements_of_other_workspace_packages_include_their_present_version(package):
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


def test_no_module_is_too_long(package):
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in sources(package / "src", "**/*.py")
    }
    assert {path: lines for path, lines in lengths.items() if lines > MAX_LINES} == {}


def test_the_top_of_a_package_has_few_entries(package):
    entries = {path.name for path in module(package).iterdir()} - {"__pycache__", "py.typed"}
    assert len(entries) <= MAX_ENTRIES, sorted(entries)


def test_no_room_has_too_many_modules(package):
    folders = (path for path in module(package).rglob("*") if path.is_dir())
    rooms = {str(path.relative_to(ROOT)): len(sources(path, "*.py")) for path in folders}
    assert len(rooms) > 1
    assert {room: modules for room, modules in rooms.items() if modules > MAX_MODULES} == {}
