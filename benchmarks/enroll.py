"""What 500 machines cost that enrol at one issuer, and that renew their certificates there.

    uv run python benchmarks/enroll.py

`at once` is the CPU time of a whole issuer, a process of its own, which 500 machines ask over TLS
at the same time, each by `aegis_discovery.enroll`. All must succeed.

The others measure the CPU time of the CA's part, with a P-256 CA on the disk of this machine:
making 500 tokens, answering 500 requests for them, and 500 requests for successors. The machines
make their keys before. In `large` the inventory has 5 000 other certificates already.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from aegis_certs import (
    CertificateAuthority,
    KeyType,
    TLSConfig,
    Token,
    new_enrolment_key_and_csr,
)
from aegis_certs._ca.inventory import Inventory
from aegis_certs._store.directory import Store
from aegis_discovery import enroll
from cryptography import x509
from harness import alternate, estimate, judge, parser_of, print_rows

MACHINES, OTHERS = 500, 5_000
TARGET = 60.0
"""CPU seconds."""

STEPS = ("make tokens", "enrol", "renew")
Costs = dict[str, float]


def timed(work: Callable[[], object]) -> float:
    """The CPU seconds of some work of this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def fill(directory: Path, count: int) -> None:
    """Adds certificates of other nodes to the inventory of a CA."""
    store = Store(directory)
    (entry,) = Inventory.load(store)
    names = [f"other-{number}" for number in range(count)]
    others = [
        replace(entry, id=name, serial=f"{number + 1:x}", sans=(name,))
        for number, name in enumerate(names)
    ]
    Inventory([entry, *others]).save(store, datetime.now(UTC))


def measure(others: int) -> Costs:
    """The CPU seconds of each step for all machines."""
    with tempfile.TemporaryDirectory() as base:
        directory = Path(base) / "certs"
        CertificateAuthority.create(directory, key_type=KeyType.P256).issue("ca-1")
        fill(directory, others)
        ca = CertificateAuthority.load(directory)
        ids = [f"node-{number}" for number in range(MACHINES)]
        first, second = (
            [new_enrolment_key_and_csr(node_id, key_type=KeyType.P256).csr for node_id in ids]
            for _ in range(2)
        )
        tokens, chains = [], []

        def make_tokens() -> None:
            tokens.extend(ca.create_token(node_id) for node_id in ids)

        def enrol() -> None:
            for csr, token in zip(first, tokens, strict=True):
                chains.append(ca.enroll(csr, token.certificate, issuer_id="ca-1").chain)

        def renew() -> None:
            for csr, chain in zip(second, chains, strict=True):
                ca.renew_for(csr, x509.load_der_x509_certificate(chain[0]), issuer_id="ca-1")

        return dict(zip(STEPS, map(timed, (make_tokens, enrol, renew)), strict=True))


def at_once() -> Costs:
    """The CPU seconds of an issuer that all machines ask at the same time."""
    with tempfile.TemporaryDirectory() as base:
        directory = Path(base) / "certs"
        ca = CertificateAuthority.create(directory, key_type=KeyType.P256)
        ca.issue("ca-1", key_type=KeyType.P256, address="127.0.0.1:0")
        command = [sys.executable, "-m", "aegis_cli", "node", "run", "--id", "ca-1", "--issuer"]
        with subprocess.Popen(
            [*command, "--cert-dir", directory], stdout=subprocess.PIPE, text=True
        ) as issuer:
            assert issuer.stdout is not None
            address = issuer.stdout.readline().split()[-1]
            try:
                tokens = [ca.create_token(f"node-{number}") for number in range(MACHINES)]
                assert all(token.issuers[0].address == address for token in tokens)
                before = cpu_of(issuer.pid)
                with ThreadPoolExecutor(MACHINES) as machines:
                    found = list(machines.map(enrol_at_issuer, tokens))
                cost = cpu_of(issuer.pid) - before
            finally:
                issuer.terminate()
        assert [tls.node_id for tls in found] == [token.node_id for token in tokens]
        return {"at once": cost}


def enrol_at_issuer(token: Token) -> TLSConfig:
    return enroll(token, None, key_type=KeyType.P256)


def cpu_of(pid: int) -> float:
    """The CPU seconds that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    arguments = parser_of(__doc__, rounds=5, quick=1).parse_args()
    variants = {"": lambda: measure(0), ", large": lambda: measure(OTHERS)}
    samples = alternate(variants, rounds=arguments.rounds, warm_up=0)
    rows = [
        judge(f"{step}{name}", estimate([costs[step] for costs in taken]), TARGET, ".1f", "s")
        for name, taken in samples.items()
        for step in STEPS
    ]
    served = alternate({"": at_once}, rounds=arguments.rounds, warm_up=0)[""]
    costs = estimate([taken["at once"] for taken in served])
    rows.append(judge("at once", costs, TARGET, ".1f", "s"))
    sys.exit(print_rows(rows))


if __name__ == "__main__":
    main()
