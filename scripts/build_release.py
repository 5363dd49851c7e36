"""Builds the wheels, and for each one a requirements file that pins all dependencies by hash.

On the public index, aegis-core and aegis-cli are projects of other people. With
`--require-hashes`, an installer accepts only the files named here, from any index.

    python scripts/build_release.py            into dist/
    python scripts/build_release.py --url https://...    with the address of the repository
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

from check_wheels import CommandFailedError, Wheel, build, run

ROOT = Path(__file__).resolve().parent.parent
LOWEST_PYTHON = "3.11"


def write_requirements(wheel: Wheel, siblings: list[Wheel], out: Path) -> Path:
    """Writes the requirements of one wheel, for all Pythons and platforms, with hashes.

    Raises:
        CommandFailedError: If they cannot be resolved, or a sibling is not the file just built.
    """
    wanted = out / f"{wheel.name}.in"
    target = out / f"requirements-{wheel.name}.txt"
    wanted.write_text(f"{wheel.name}=={wheel.version}\n")
    try:
        run(
            *("uv", "pip", "compile", "--quiet", "--universal", "--no-header", "--no-annotate"),
            *("--python-version", LOWEST_PYTHON, "--generate-hashes", "--no-emit-find-links"),
            *("--find-links", out, "--output-file", target, wanted),
        )
    finally:
        wanted.unlink()
    text = target.read_text()
    for sibling in siblings:
        digest = hashlib.sha256(sibling.path.read_bytes()).hexdigest()
        if f"\n{sibling.name}==" in f"\n{text}" and digest not in text:
            raise CommandFailedError(f"{target.name} pins another {sibling.name} than ours")
    return target


def _https(text: str) -> str:
    if not text.startswith("https://"):
        raise argparse.ArgumentTypeError(f"{text!r} does not begin with https://")
    return text


def main() -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="the folder to write")
    parser.add_argument(
        "--url",
        type=_https,
        help="where the repository is published; the wheels link to it",
    )
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    try:
        wheels = build(out, url=arguments.url or "")
        for wheel in wheels:
            print(f"{wheel.path.name}  {write_requirements(wheel, wheels, out).name}", flush=True)
    except CommandFailedError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
