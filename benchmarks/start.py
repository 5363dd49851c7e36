"""What it costs to start: imports, a client's first call, and commands that only look.

    uv run python benchmarks/start.py

What counts is the CPU time of whole processes, in turn, against what a user would have instead:

- imports: against `import grpc`. The packages load each name on first use, so that a package alone
  takes less than gRPC. Judged too, by the same target, is the first name of a program;
- first call: `connect` and one call by a stub of generated code, against the same call on a plain
  channel with mutual TLS, which has to know the provider's address and id. The target is for a
  `new process`: a program that does this and ends. `running` is the same within a process that has
  done it before, and has no target: `connect` makes three handshakes (to learn who a seed peer is,
  for the feed, and for the call) where a plain channel makes one.
- commands: `openssl x509` is shown for one certificate of a list, and for the status the first call
  on a plain channel.

CA and nodes have RSA keys, as they have by default. Python finds the bytecode of all modules, as it
does where pip installed them; where it compiles them at each start, all of this costs more than
twice as much, and the ratios stay about the same.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from aegis_certs import CertificateAuthority, KeyType
from harness import (
    Row,
    alternate,
    command_cpu,
    estimate,
    judge,
    paired_rounds,
    parser_of,
    print_rows,
    python_cpu,
    ratios,
)

MAX_IMPORT, MAX_FIRST_CALL = 120.0, 1.8
MAX_STATUS, MAX_LIST = 350.0, 700.0
LISTED = 1000
OPENSSL_LOOP = 20
"""Certificates that are shown with openssl, a process each."""

IMPORTS = (
    "import aegis_discovery",
    "from aegis_discovery import connect",
    "import aegis_core",
    "from aegis_core import Node",
)
NODE = """
import sys
from aegis_cli.demo.greeter_pb2_grpc import add_GreeterServicer_to_server
from aegis_cli.demo.provider import SERVICE, Greeter
from aegis_core import Node
node = Node("provider", address="127.0.0.1:0", cert_dir=sys.argv[1], services=[SERVICE],
            registrars=[lambda server: add_GreeterServicer_to_server(Greeter("provider"), server)])
node.run(on_ready=lambda: print(node.address, flush=True))
"""
CALL = "GreeterStub(channel).Hello(HelloRequest(name='first'))"
IMPORT_STUB = """
from aegis_cli.demo.greeter_pb2 import HelloRequest
from aegis_cli.demo.greeter_pb2_grpc import GreeterStub
"""
RAW = f"""
import sys
from pathlib import Path
import grpc
{IMPORT_STUB}
def first_call(directory, address):
    ca, key, chain = (Path(directory, name).read_bytes() for name in
                      ("ca-cert.pem", "caller-key.pem", "caller-cert.pem"))
    credentials = grpc.ssl_channel_credentials(ca, key, chain)
    options = [("grpc.ssl_target_name_override", "provider")]
    with grpc.secure_channel(address, credentials, options) as channel:
        {CALL}
"""
OURS = f"""
import sys
from aegis_discovery import connect
{IMPORT_STUB}
def first_call(directory, address):
    with connect(address, node_id="caller", cert_dir=directory) as mesh:
        channel = mesh.pool.channel("greeter", "v1")
        {CALL}
"""
RUN = "first_call(*sys.argv[1:])"
LIST = "from aegis_certs._main import main; main()"
STATUS = "from aegis_cli import main; main()"


def compare_imports(rounds: int) -> list[Row]:
    """Judges the imports with which a program starts."""
    print("\nCPU ms over `import grpc`; median [95 % interval]")
    taken = alternate(
        {code: partial(python_cpu, code) for code in ("import grpc", *IMPORTS)}, rounds=rounds
    )
    rows = []
    for code in IMPORTS:
        pairs = zip(taken[code], taken["import grpc"], strict=True)
        over = estimate([ours - theirs for ours, theirs in pairs])
        print(f"{code:<40} {over:.0f}")
        rows.append(judge(f"`{code}` over `import grpc`", over, MAX_IMPORT, ".0f", "ms"))
    print(f"{'import grpc alone, with Python':<40} {estimate(taken['import grpc']):.0f}")
    return rows


def compare_first_calls(rounds: int) -> list[Row]:
    """Judges `connect` with a first call, and `aegis mesh status`, at a mesh of one node."""
    with _provider() as where:
        status = ("mesh", "status", "--cert-dir", where[0], "--node", where[1])
        new = alternate(
            {
                "raw": partial(python_cpu, RAW + RUN, *where),
                "ours": partial(python_cpu, OURS + RUN, *where),
                "status": partial(python_cpu, STATUS, *status),
            },
            rounds=rounds,
        )
        running = paired_rounds(
            {"raw": _repeated(RAW, where), "ours": _repeated(OURS, where)}, rounds=rounds, calls=1
        )
    print("\nconnect to the first call, CPU ms; median [95 % interval]")
    print(f"{'new process, plain channel':<40} {estimate(new['raw']):.0f}")
    print(f"{'new process, connect':<40} {estimate(new['ours']):.0f}")
    for name, what in (("raw", "running, plain channel"), ("ours", "running, connect")):
        print(f"{what:<40} {estimate([us / 1000 for us in running[name]]):.1f}")
    print(f"{'running, ratio':<40} {ratios(running['ours'], running['raw']):.2f}")
    print(f"{'aegis mesh status':<40} {estimate(new['status']):.0f}")
    return [
        judge("first call, new process", ratios(new["ours"], new["raw"]), MAX_FIRST_CALL, ".2f"),
        judge("aegis mesh status", estimate(new["status"]), MAX_STATUS, ".0f", "ms"),
    ]


def compare_list(rounds: int) -> list[Row]:
    """Judges `aegis-certs list` of many certificates."""
    with tempfile.TemporaryDirectory() as directory:
        ca = CertificateAuthority.create(directory, key_type=KeyType.P256)
        for number in range(LISTED):
            ca.issue(f"node-{number}", key_type=KeyType.P256)
        show = ("openssl", "x509", "-noout", "-subject", "-serial", "-dates", "-in")
        some = [[*show, f"{directory}/node-{number}-cert.pem"] for number in range(OPENSSL_LOOP)]
        taken = alternate(
            {
                "openssl": partial(command_cpu, *some),
                "list": partial(python_cpu, LIST, "list", "--dir", directory),
            },
            rounds=max(rounds // 3, 3),
            warm_up=1,
        )
    each = estimate([ms / OPENSSL_LOOP for ms in taken["openssl"]])
    print(f"\naegis-certs list of {LISTED} certificates, CPU ms; median [95 % interval]")
    print(f"{'openssl x509, a certificate':<40} {each:.1f}")
    print(f"{'aegis-certs list, in all':<40} {estimate(taken['list']):.0f}")
    what = f"aegis-certs list of {LISTED}"
    return [judge(what, estimate(taken["list"]), MAX_LIST, ".0f", "ms")]


@contextmanager
def _provider() -> Iterator[tuple[str, str]]:
    """Runs a node with the demo's service; yields the directory of certificates and its address."""
    with tempfile.TemporaryDirectory() as directory:
        CertificateAuthority.create(directory).issue("caller")
        command = [sys.executable, "-c", NODE, directory]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as node:
            assert node.stdout is not None
            try:
                yield directory, node.stdout.readline().strip()
            finally:
                node.terminate()


def _repeated(code: str, where: tuple[str, str]) -> Callable[[int], None]:
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - the code above

    def run(calls: int) -> None:
        for _ in range(calls):
            names["first_call"](*where)

    return run


def main() -> None:
    parser = parser_of(__doc__, rounds=15, quick=5)
    arguments = parser.parse_args()
    rows = []
    for compare in (compare_imports, compare_first_calls, compare_list):
        rows += compare(arguments.rounds)
    sys.exit(print_rows(rows))


if __name__ == "__main__":
    main()
