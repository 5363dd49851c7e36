"""Builds every wheel and tests each one alone, with the lowest versions that it declares.

Each wheel is installed into a clean environment with only its own dependencies. There all its
modules must import, its commands must print their help, it must contain only its own files, import
only declared dependencies, and pass its own tests.

On the public index, aegis-core and aegis-cli are projects of other people. A constraint therefore
binds the name of each of our wheels to its file, so that no index is asked for it.
"""

from __future__ import annotations

import argparse
import ast
import email
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement  # pytest depends on it
from packaging.utils import canonicalize_name
from run_tests import run_tests

ROOT = Path(__file__).resolve().parent.parent
PROBE = Path(__file__).with_name("probe_wheel.py")

# Modules that the import of a package must not load, since users rely on a fast import.
FORBIDDEN = {
    "aegis_certs": ("grpc", "google.protobuf", "click", "rich"),
    "aegis_discovery": ("click", "rich", "aegis_core"),
    "aegis_core": ("click", "rich", "aegis_cli"),
    "aegis_cli": ("grpc", "google.protobuf", "cryptography"),
}


class CommandFailedError(Exception):
    """A command failed."""


@dataclass(frozen=True)
class Wheel:
    """The metadata of a built wheel."""

    path: Path
    name: str
    version: str
    requires: tuple[Requirement, ...]
    commands: tuple[str, ...]
    plugins: tuple[str, ...]
    files: tuple[str, ...]

    @property
    def package(self) -> str:
        """The name that users import."""
        return self.name.replace("-", "_")

    @property
    def public_modules(self) -> tuple[str, ...]:
        """All modules whose names have no part that begins with an underscore."""
        names = {
            file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            for file in self.files
            if file.endswith(".py")
        }
        return tuple(sorted(n for n in names if not any(p.startswith("_") for p in n.split("."))))

    @classmethod
    def read(cls, path: Path) -> Wheel:
        """Reads the metadata of the wheel at `path`."""
        with zipfile.ZipFile(path) as archive:
            files = tuple(archive.namelist())
            info = next(f.split("/")[0] for f in files if f.endswith(".dist-info/METADATA"))
            metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
            scripts = ConfigParser()
            if f"{info}/entry_points.txt" in files:
                scripts.read_string(archive.read(f"{info}/entry_points.txt").decode())
        return cls(
            path=path,
            name=canonicalize_name(metadata["Name"]),
            version=metadata["Version"],
            requires=tuple(Requirement(r) for r in metadata.get_all("Requires-Dist", [])),
            plugins=tuple(scripts["pytest11"].values()) if "pytest11" in scripts else (),
            commands=tuple(scripts["console_scripts"]) if "console_scripts" in scripts else (),
            files=files,
        )

    def imports(self) -> Iterator[tuple[str, str]]:
        """Yields (file, top-level name) for each absolute import in the wheel's modules."""
        with zipfile.ZipFile(self.path) as archive:
            for file in self.files:
                if not file.endswith(".py"):
                    continue
                for node in ast.walk(ast.parse(archive.read(file))):
                    if isinstance(node, ast.Import):
                        yield from ((file, alias.name.split(".")[0]) for alias in node.names)
                    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                        yield file, node.module.split(".")[0]


def run(*command: str | Path, quiet: bool = False) -> str:
    """Runs a command in the repository and returns its output.

    Raises:
        CommandFailedError: If its exit code is not 0; its output is printed before.
    """
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.PIPE if quiet else None,
        text=True,
        check=False,
    )
    if done.returncode:
        print(done.stdout or "", done.stderr or "", sep="", end="")
        raise CommandFailedError(f"exit code {done.returncode} of: {' '.join(map(str, command))}")
    return done.stdout or ""


def links_of(package: str, url: str) -> dict[str, str]:
    """Returns what the page of a package on an index links to, where the repository is at `url`."""
    return {
        "Repository": url,
        "Guides": f"{url}/blob/main/docs/guides/index.md",
        "Changelog": f"{url}/blob/main/packages/{package}/CHANGELOG.md",
        "Issues": f"{url}/issues",
    }


def build(out: Path, *, url: str = "") -> list[Wheel]:
    """Builds all packages into `out` (each wheel from its sdist) and reads the wheels.

    Args:
        out: The folder.
        url: The address of the repository, for the metadata and the readme of the wheels.
    """
    # Old wheels of other versions would be used as siblings.
    for old in (*out.glob("aegis_*.whl"), *out.glob("aegis_*.tar.gz")):
        old.unlink()
    with tempfile.TemporaryDirectory() as folder:
        source = ROOT
        if url:
            source = Path(folder)
            shutil.copytree(ROOT / "packages", source / "packages")
            shutil.copy(ROOT / "pyproject.toml", source)
            for package in source.glob("packages/*"):
                links = links_of(package.name, url)
                lines = [f"{name} = {json.dumps(target)}" for name, target in links.items()]
                with (package / "pyproject.toml").open("a") as project:
                    project.write("\n".join(["", "[project.urls]", *lines, ""]))
                with (package / "README.md").open("a") as readme:
                    readme.write("\n" + " · ".join(f"[{n}]({t})" for n, t in links.items()) + "\n")
        for package in sorted(source.glob("packages/*")):  # not the examples of the workspace
            run("uv", "build", package, "--out-dir", out, quiet=True)
    return sorted((Wheel.read(p) for p in out.glob("*.whl")), key=lambda wheel: wheel.name)


def third_party(wheel: Wheel, siblings: dict[str, Wheel]) -> set[str]:
    """Returns every requirement that the wheel and its siblings declare on other projects."""
    found: set[str] = set()
    for requirement in wheel.requires:
        if canonicalize_name(requirement.name) in siblings:
            found |= third_party(siblings[canonicalize_name(requirement.name)], siblings)
        else:
            found.add(str(requirement))
    return found


def problems_of_contents(wheel: Wheel) -> Iterator[str]:
    """Yields missing and unexpected files."""
    info = f"{wheel.package}-{wheel.version}.dist-info"
    for file in (f"{wheel.package}/py.typed", f"{info}/licenses/LICENSE"):
        if file not in wheel.files:
            yield f"{file} is not in the wheel"
    for file in wheel.files:
        if not file.startswith((f"{wheel.package}/", f"{info}/")):
            yield f"{file} has no place in the wheel"


def problems_of_imports(wheel: Wheel, owners: dict[str, list[str]]) -> Iterator[str]:
    """Yields imports that are not declared, and declarations that nothing imports.

    Args:
        wheel: The wheel to read.
        owners: Top-level import name -> the distributions in the environment that provide it.
    """
    declared = {canonicalize_name(r.name) for r in wheel.requires}
    # Extras are not installed here. Modules that need one import it where they use it.
    extras = {canonicalize_name(r.name) for r in wheel.requires if "extra" in str(r.marker)}
    used: set[str] = set()
    for file, name in wheel.imports():
        if name in sys.stdlib_module_names or name == wheel.package:
            continue
        providers = {canonicalize_name(owner) for owner in owners.get(name, ())}
        # `opentelemetry-api` is imported as `opentelemetry`.
        providers = providers or {extra for extra in extras if extra.partition("-")[0] == name}
        used |= providers
        if not providers & declared:
            yield f"{file} imports {name}, which the wheel does not declare"
    for missing in sorted(declared - extras - used):
        yield f"{missing} is declared, but nothing imports it"


def problems_of_probe(wheel: Wheel, seen: dict[str, list[str]]) -> Iterator[str]:
    """Yields problems found when the modules were imported."""
    for failure in seen["failures"]:
        # Extras are not installed here, and a module that needs one as a whole says which.
        if not ("ModuleNotFoundError" in failure and "the extra `" in failure):
            yield failure
    for name in FORBIDDEN[wheel.package]:
        if name in seen["loaded"]:
            yield f"import {wheel.package} loads {name}"
    for name in seen["foreign"]:
        yield f"{name} did not come from a file just built"


def check(wheel: Wheel, siblings: dict[str, Wheel], python: str, scratch: Path) -> list[str]:
    """Installs the wheel alone, tests it and returns the problems found."""
    env = scratch / wheel.name
    interpreter = env / "bin" / "python"
    pins = scratch / "siblings.txt"
    pins.write_text("".join(f"{w.name} @ {w.path.as_uri()}\n" for w in siblings.values()))
    run("uv", "venv", "--quiet", "--no-project", "--python", python, env)
    install = ("uv", "pip", "install", "--quiet", "--python", interpreter)
    run(
        *(*install, "--resolution", "lowest-direct", "--constraints", pins, wheel.path),
        *sorted(third_party(wheel, siblings)),
    )
    frozen = run("uv", "pip", "freeze", "--python", interpreter, quiet=True)
    print("  " + ", ".join(line.split(" @ ")[0] for line in frozen.splitlines()))

    # Only pytest imports its plugins, and it is not installed here.
    modules = [module for module in wheel.public_modules if module not in wheel.plugins]
    # -P excludes the folder of the probe from the path, so that only installed modules are found.
    probe = json.loads(run(interpreter, "-P", PROBE, wheel.package, *modules, quiet=True))
    for command in wheel.commands:
        run(env / "bin" / command, "--help", quiet=True)
    problems = [
        *problems_of_contents(wheel),
        *problems_of_probe(wheel, probe),
        *problems_of_imports(wheel, probe["owners"]),
    ]

    tests = ROOT / "packages" / wheel.name / "tests"
    if problems or not tests.is_dir():
        return problems
    lock = scratch / f"{wheel.name}.txt"
    lock.write_text(frozen)
    run(*install, "--constraints", lock, "--group", "test")
    passed = run_tests(
        [
            *(str(interpreter), "-P", "-m", "pytest", "-q", str(tests)),
            # Simulations do not depend on the versions of dependencies, and they are slow.
            "--ignore-glob=*/test_simulation*",
        ],
        label=f"{wheel.name} alone: ",
    )
    return [] if passed else ["its tests failed"]


def main() -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default="3.11", help="the Python of the environments")
    parser.add_argument("--only", help="test only this wheel")
    options = parser.parse_args()
    siblings = {wheel.name: wheel for wheel in build(ROOT / "dist")}
    failed = False
    with tempfile.TemporaryDirectory(prefix="aegis-wheels-") as scratch:
        for wheel in siblings.values():
            if options.only not in {None, wheel.name}:
                continue
            print(f"{wheel.path.name} alone, on Python {options.python}:", flush=True)
            try:
                problems = check(wheel, siblings, options.python, Path(scratch))
            except CommandFailedError as error:
                problems = [str(error)]
            failed = failed or bool(problems)
            for problem in problems:
                print(f"  {wheel.name}: {problem}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
