"""Generates the Python code of all .proto files; `--check` only checks that it is up to date."""

from __future__ import annotations

import argparse
import filecmp
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Folder of .proto files -> package that holds the generated code, below its source root.
TARGETS = [
    ("protos", "packages/aegis-discovery/src", "aegis_discovery/proto"),
    ("packages/aegis-cli/src/aegis_cli/demo", "packages/aegis-cli/src", "aegis_cli/demo"),
    ("examples/shop/shop/protos", "examples/shop", "shop/protos"),
]


def generate(folder: Path, package: str, out: Path) -> list[Path]:
    """Writes the modules of the folder's .proto files below `out` and returns their paths there."""
    protos = sorted(folder.glob("*.proto"))
    if not protos:
        return []
    out.mkdir(parents=True, exist_ok=True)
    # The virtual prefix makes generated modules import each other by their full package name.
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc", f"-I{package}={folder}"),
        *(f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")),
        *(f"{package}/{proto.name}" for proto in protos),
    ]
    subprocess.run(command, check=True, cwd=ROOT)
    return sorted((out / package).glob("*_pb2*.py*"))


def main() -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail on a difference")
    check = parser.parse_args().check
    stale: list[Path] = []
    for folder, source_root, package in TARGETS:
        with tempfile.TemporaryDirectory() as scratch:
            fresh = generate(ROOT / folder, package, Path(scratch))
            for made in fresh:
                kept = ROOT / source_root / package / made.name
                if kept.exists() and filecmp.cmp(made, kept, shallow=False):
                    continue
                stale.append(kept.relative_to(ROOT))
                if not check:
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    kept.write_bytes(made.read_bytes())
    for path in stale:
        print(f"{path}: {'out of date; run scripts/gen_protos.py' if check else 'written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
