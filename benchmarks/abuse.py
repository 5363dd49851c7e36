"""What one member, or one whose certificate is revoked, can do to a node and to its honest callers.

    uv run python benchmarks/abuse.py [--only PART] [--server blocking|async] [--attacker WHO]

Two nodes provide a service, each in a process of its own, and 8 honest callers call it through a
client of the mesh. An attacker floods one of the nodes (`attacks.py`): a member, one whose
certificate is revoked, or one whose certificate allows it to call only. Printed are the calls that
failed, the memory that the node took and kept, and how often its log repeated itself.

Then come bad days without an attacker (`mishaps.py`): bad seeds, wrong clocks, and providers that
are killed every two seconds for two minutes (`kills.py`). Each part may run alone; one kind of
attack takes up to four minutes for a server, the kills take three.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import attacks
import compressed_attacks
import connection_attacks
import frame_attacks
import kills
import large_attacks
import mishaps
import slow_attacks
from aegis_certs import CertificateAuthority, KeyType, TLSConfig
from attacks import Attack, raise_limit
from failures import callers
from harness import Row, parser_of, print_rows, within
from workload import (
    NAME,
    SMALL,
    Child,
    answer,
    children,
    node_options,
    path,
    told,
)

PROVIDERS = ("a", "b")
ATTACKERS = ("member", "revoked", "client")
HONEST = "caller"
HONEST_CALLERS, PAUSE, DEADLINE = 8, 0.02, 5.0
MAX_FAILED = 0.001
MAX_MEMORY, MAX_KEPT, MB = 50, 20, 1e6
PATIENCE = 60.0
"""Seconds after which the memory must be back."""

MAX_LINES = 1
"""Log lines a minute of one sender for one reason."""


KINDS = {
    **attacks.KINDS,
    **slow_attacks.KINDS,
    **connection_attacks.KINDS,
    **frame_attacks.KINDS,
    **compressed_attacks.KINDS,
    **large_attacks.KINDS,
}
BAD_DAYS = ("bad seeds", "wrong clocks", "kills")


class Mesh(NamedTuple):
    nodes: list[Child]
    identities: dict[str, TLSConfig]
    log: Path


class Damage(NamedTuple):
    sent: int
    calls: int
    failed: int
    slowest: float
    """Seconds of the honest call that took longest."""
    added: float
    """Bytes at the peak."""
    kept: float
    """Bytes after the attack, at most `PATIENCE` later."""
    lines: int
    """Log lines a minute of the kind that is repeated most."""


@contextmanager
def mesh_of(is_aio: bool, directory: Path) -> Iterator[Mesh]:
    """Starts the providers; the first one's log goes to a file."""
    ca = CertificateAuthority.create(directory, key_type=KeyType.P256)
    members = (*PROVIDERS, HONEST, f"{HONEST}-member", f"{HONEST}-revoked")
    identities = {name: ca.issue(name, key_type=KeyType.P256) for name in members}
    client = f"{HONEST}-client"
    identities[client] = ca.issue(client, key_type=KeyType.P256, client_only=True)
    ca.revoke(f"{HONEST}-revoked")
    with ExitStack() as stack:
        nodes: list[Child] = []
        for node_id in PROVIDERS:
            settings = {
                "aio": is_aio,
                "cert_dir": str(directory),
                "seed_peers": [nodes[0].started] if nodes else [],
                "log": str(directory / f"{node_id}.log"),
            }
            start = partial(Child, "node", settings, identities[node_id], module=__file__)
            nodes += stack.enter_context(children(start))
        yield Mesh(nodes, identities, directory / f"{PROVIDERS[0]}.log")


def run_attack(kind: str, attacker: str, is_aio: bool, seconds: float) -> Damage:
    """Runs honest callers and one attack."""
    from aegis_discovery import connect

    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        mesh = stack.enter_context(mesh_of(is_aio, directory))
        addresses = [node.started for node in mesh.nodes]
        options: dict[str, Any] = {"node_id": HONEST, "cert_dir": directory}
        client = stack.enter_context(connect(*reversed(addresses), **options))
        channel: Any = client.pool.channel(NAME, "v1")
        stub = channel.unary_unary(path("Echo"))
        while len(client.topology.get_service_providers(NAME, "v1")) < len(PROVIDERS):
            time.sleep(0.1)
        identity = mesh.identities[f"{HONEST}-{attacker}"]
        start = partial(Child, "attack", addresses[0], identity, module=__file__)
        (attack,) = stack.enter_context(children(start))
        honest = [lambda: stub(SMALL, timeout=DEADLINE)] * HONEST_CALLERS
        with callers(honest, PAUSE) as calls:
            time.sleep(2)
            before, lines_before = memory(mesh.nodes[0]), len(mesh.log.read_text().splitlines())
            began = time.monotonic()
            sent, peak = attack.ask([kind, seconds]), peak_memory(mesh.nodes[0])
            minutes = (time.monotonic() - began) / 60
            lines = mesh.log.read_text().splitlines()[lines_before:]
            attack.ask("release")
        kept = memory(mesh.nodes[0]) - before
        ended = time.monotonic()
        while kept > MAX_KEPT * MB and time.monotonic() - ended < PATIENCE:
            time.sleep(1)
            kept = memory(mesh.nodes[0]) - before
        failed = sum(call.failed for call in calls)
        slowest = max(call.took for call in calls)
        repeated = Counter(re.sub(r"[0-9]+", "N", line) for line in lines).most_common(1)
        count = repeated[0][1] if repeated else 0
        per_minute = count if minutes < 1 else round(count / minutes)
    return Damage(sent, len(calls), failed, slowest, peak - before, kept, per_minute)


def memory(process: Child) -> float:
    return _status(process, "VmRSS")


def peak_memory(process: Child) -> float:
    return _status(process, "VmHWM")


def _status(process: Child, field: str) -> float:
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{field} does not show")


def report(
    kinds: list[str], servers: list[bool], attackers: Sequence[str], seconds: float
) -> list[Row]:
    print(
        f"one attacker for {seconds:g} s at one of two providers; {HONEST_CALLERS} honest callers"
    )
    head = "attack                     server    attacker         sent  calls  failed  slowest, s"
    print(f"{head}  added, MB  kept, MB  lines/min")
    rows = []
    for kind in kinds:
        for is_aio in servers:
            server = "async" if is_aio else "blocking"
            for attacker in attackers:
                done = run_attack(kind, attacker, is_aio, seconds)
                calls = f"{done.sent:9} {done.calls:6} {done.failed:7} {done.slowest:11.2f}"
                held = f"{done.added / MB:10.0f} {done.kept / MB:9.0f} {done.lines:10}"
                print(f"{kind:26} {server:9} {attacker:11} {calls} {held}", flush=True)
                what = f"{kind}, {server}, {attacker}"
                rows += judged(what, done)
    return rows


def judged(what: str, done: Damage) -> list[Row]:
    share = done.failed / max(1, done.calls)
    added, kept = done.added / MB, done.kept / MB
    return [
        Row(f"{what}: calls failed", f"{share:.2%}", f"{MAX_FAILED:.1%}", share <= MAX_FAILED),
        Row(
            f"{what}: memory added",
            f"{added:.0f} MB",
            f"{MAX_MEMORY} MB",
            within(added, MAX_MEMORY),
        ),
        Row(f"{what}: kept after", f"{kept:.0f} MB", f"{MAX_KEPT} MB", within(kept, MAX_KEPT)),
        Row(
            f"{what}: log lines a minute",
            f"{done.lines}",
            f"{MAX_LINES}",
            done.lines <= MAX_LINES,
        ),
    ]


def serve(tls: TLSConfig, settings: dict[str, Any]) -> None:
    """Runs a provider; its log goes to a file."""
    log_to(settings["log"])
    options = node_options(tls, settings["aio"])
    del options["tls"]
    options |= {name: settings[name] for name in ("cert_dir", "seed_peers")}
    if settings["aio"]:
        asyncio.run(serve_async(tls.node_id, options))
        return
    from aegis_core import Node

    with Node(tls.node_id, **options) as node:
        answer(node.address)
        sys.stdin.read()


async def serve_async(node_id: str, options: dict[str, Any]) -> None:
    from aegis_core.aio import Node

    async with Node(node_id, **options) as node:
        answer(node.address)
        await asyncio.to_thread(sys.stdin.read)


def log_to(path: str) -> None:
    logging.basicConfig(filename=path, level=logging.WARNING, format="%(message)s")


def attack_on_request(tls: TLSConfig, address: str) -> None:
    raise_limit()
    attack = Attack(tls, address, PROVIDERS[0])
    answer("ready")
    for line in sys.stdin:
        asked = json.loads(line)
        if asked == "release":
            attack.release()
            answer("released")
        else:
            kind, seconds = asked
            answer(KINDS[kind](attack, time.monotonic() + seconds))


def main() -> int:
    if sys.argv[1:] in (["node"], ["attack"]):
        role = sys.argv[1]
        tls, settings = told()
        serve(tls, settings) if role == "node" else attack_on_request(tls, settings)
        return 0
    parser = parser_of(__doc__, rounds=3, quick=1)  # each with another attacker
    parser.add_argument("--seconds", type=float, default=5.0, help="of each attack (default 5)")
    parser.add_argument("--only", action="append", choices=(*KINDS, *BAD_DAYS), metavar="PART")
    parser.add_argument("--server", choices=("blocking", "async"))
    parser.add_argument("--attacker", action="append", choices=ATTACKERS)
    arguments = parser.parse_args()
    servers = [arguments.server == "async"] if arguments.server else [False, True]
    attackers = arguments.attacker or ATTACKERS[: arguments.rounds]
    parts = arguments.only or (*KINDS, *BAD_DAYS)
    rows = []
    if kinds := [kind for kind in KINDS if kind in parts]:
        rows += report(kinds, servers, attackers, arguments.seconds)
    if "bad seeds" in parts:
        rows += mishaps.report_seeds(min(2, arguments.rounds))
    if "wrong clocks" in parts:
        rows += mishaps.report_clocks(min(2, arguments.rounds))
    if "kills" in parts:
        seconds = 40.0 * arguments.rounds
        rows += kills.report(seconds, [kills.Variant("new", "sync", 0.005)])
    return print_rows(rows)


if __name__ == "__main__":
    sys.exit(main())
