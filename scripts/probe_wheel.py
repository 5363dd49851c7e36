"""Runs in a clean environment: imports a package and its modules and prints the result.

Usage: probe_wheel.py PACKAGE MODULE... It prints one JSON object and imports only the standard
library.
"""

from __future__ import annotations

import importlib
import json
import sys
from importlib import metadata


def main(package: str, modules: list[str]) -> None:
    """Prints the loaded modules, the failures, and which distribution owns which name."""
    failures: list[str] = []
    loaded: list[str] = []
    for module in [package, *modules]:
        try:
            imported = importlib.import_module(module)
            # Some names are loaded only on first use.
            for name in getattr(imported, "__all__", ()):
                getattr(imported, name)
        except Exception as error:  # noqa: BLE001 - reports every failure and continues
            failures.append(f"import {module} failed: {type(error).__name__}: {error}")
        if module == package:
            loaded = sorted(sys.modules)
    ours = [d for d in metadata.distributions() if d.name.startswith("aegis")]
    foreign = [d.name for d in ours if '"file://' not in (d.read_text("direct_url.json") or "")]
    owners = metadata.packages_distributions()
    print(
        json.dumps(
            {"failures": failures, "loaded": loaded, "foreign": foreign, "owners": dict(owners)}
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
