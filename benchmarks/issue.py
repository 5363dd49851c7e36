"""What `aegis-certs issue` costs, against `openssl` as a script uses it.

    uv run python benchmarks/issue.py

All are whole processes, in turn; what counts is their CPU time for one certificate. For openssl
these are two processes: `req` makes a P-256 key and a request, and `x509` signs it. It checks no
names, and keeps neither an inventory nor a log.

- `one`: one command for one certificate, in a CA with few certificates;
- `one, large`: the same in a CA with 500 certificates;
- `many`: one command for 100 certificates.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from aegis_certs import CertificateAuthority, KeyType
from harness import (
    alternate,
    command_cpu,
    estimate,
    judge,
    parser_of,
    print_rows,
    python_cpu,
    ratios,
)

LARGE, MANY = 500, 100
START_TARGET, GROWTH_TARGET, MANY_TARGET = 16.0, 1.2, 1.0
OURS = "from aegis_certs._main import main; main()"
EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def issue_with_openssl(directory: Path) -> float:
    """Makes a key, and a certificate that the CA in the directory signs."""
    key, request, signed = (str(directory / f"openssl.{end}") for end in ("key", "csr", "pem"))
    ca = ("-CA", str(directory / "ca-cert.pem"), "-CAkey", str(directory / "ca-key.pem"))
    asked = ("-subj", "/CN=node-1", "-addext", "subjectAltName=DNS:node-1")
    return command_cpu(
        ["openssl", "req", "-new", *EC, *asked, "-keyout", key, "-out", request],
        ["openssl", "x509", "-req", "-in", request, *ca, "-days", "90", "-out", signed],
    )


def issue_with_aegis(directory: Path, ids: Sequence[str]) -> float:
    """Runs one command for these nodes; returns the CPU time for each."""
    options = ("--key-type", "p256", "--dir", str(directory))
    return python_cpu(OURS, "issue", *ids, *options) / len(ids)


def main() -> None:
    parser = parser_of(__doc__, rounds=15, quick=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        small, large, bulk = (Path(base) / name for name in ("small", "large", "bulk"))
        for directory in (small, large, bulk):
            ca = CertificateAuthority.create(directory, key_type=KeyType.P256)
            for number in range(LARGE if directory == large else 1):
                ca.issue(f"node-{number}", key_type=KeyType.P256)
        many = [f"node-{number}" for number in range(MANY)]
        variants: dict[str, Callable[[], float]] = {
            "openssl": lambda: issue_with_openssl(small),
            "one": lambda: issue_with_aegis(small, ["node-0"]),
            "one, large": lambda: issue_with_aegis(large, ["node-0"]),
            "many": lambda: issue_with_aegis(bulk, many),
        }
        samples = alternate(variants, rounds=arguments.rounds)

    rows = [
        judge("one / openssl", ratios(samples["one"], samples["openssl"]), START_TARGET, ".2f"),
        judge(
            "one, large / one", ratios(samples["one, large"], samples["one"]), GROWTH_TARGET, ".2f"
        ),
        judge("many / openssl", ratios(samples["many"], samples["openssl"]), MANY_TARGET, ".2f"),
    ]
    found = {name: estimate(taken) for name, taken in samples.items()}
    if arguments.json:
        print(json.dumps({name: vars(one) for name, one in found.items()}))
        sys.exit(not all(row.ok for row in rows))
    for name, one in found.items():
        print(f"{name:<12} {one:.1f} ms a certificate")
    sys.exit(print_rows(rows))


if __name__ == "__main__":
    main()
