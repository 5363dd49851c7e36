"""`aegis doctor`: what is wrong with a mesh, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aegis_cli._output.answer import Answer
from aegis_cli._output.table import Cell, Column, Table
from aegis_cli._view.model import Seen, View, number_of, span, text_of

CLOCK_WARNING = 5.0
"""Seconds by which a clock may differ from this one before it is named."""

CLOCK_PROBLEM = 300.0
"""Seconds ahead at which other nodes refuse what a node publishes."""

MAX_NAMED = 5
"""Nodes that one finding names."""

_STYLES = {"ok": "green", "warning": "yellow", "problem": "red", "skipped": "dim"}
_ORDER = ("problem", "warning", "skipped", "ok")
_COLUMNS = (Column("LEVEL"), Column("TOPIC"), Column("FOUND", folds=True))
_LOOPBACK = ("127.", "localhost:", "[::1]:")
_WILDCARD = ("0.0.0.0:", "[::]:", ":")


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The result of one examination.

    Attributes:
        topic: What was examined.
        level: `ok`, `warning`, `problem` or `skipped`.
        text: What was found, and what to do.
        nodes: The nodes that it is about.
    """

    topic: str
    level: str
    text: str
    nodes: Sequence[str] = ()


def report(found: Iterable[Diagnosis], taken_at: datetime) -> Answer:
    """All results, what is wrong first; `--check` counts the problems."""
    ordered = sorted(found, key=lambda one: _ORDER.index(one.level))
    counts = {level: sum(one.level == level for one in ordered) for level in _ORDER}
    words = [f"{counts[level]} {level}{'s' * (counts[level] != 1)}" for level in _ORDER[:2]]
    return Answer(
        {
            "taken_at": taken_at,
            "findings": [
                {
                    "topic": one.topic,
                    "level": one.level,
                    "text": one.text,
                    "nodes": list(one.nodes),
                }
                for one in ordered
            ],
        },
        [Cell(", ".join(words), "red" if counts["problem"] else "bold")],
        Table(
            _COLUMNS,
            [
                [Cell(one.level, _STYLES[one.level]), Cell(one.topic), Cell(one.text)]
                for one in ordered
            ],
        ),
        wrong=counts["problem"],
    )


def examine_view(view: View) -> Iterator[Diagnosis]:
    """Examines a mesh whose nodes were asked for their health, clock and versions."""
    yield from _reachability(view)
    yield from _clocks(view)
    yield from _addresses(view)
    yield from _certificates(view)
    yield from _trust(view)
    yield from _versions(view)
    yield from _topologies(view)


def _reachability(view: View) -> Iterator[Diagnosis]:
    topic, silent = "reachability", [node for node in view.nodes if node.problem]
    for node in silent[:MAX_NAMED]:
        state = f"{node.id} at {node.info.address or 'no address'} ({node.info.status})"
        advice = (
            f"start it again, or remove it with `aegis mesh forget {node.id}`"
            if node.info.status == "failed"
            else "check that it runs, and that this machine reaches its address and port"
        )
        end = "" if node.problem.endswith("?") else ";"
        yield Diagnosis(topic, "problem", f"{state}: {node.problem}{end} {advice}", [node.id])
    if more := [node.id for node in silent[MAX_NAMED:]]:
        yield Diagnosis(topic, "problem", f"{len(more)} more nodes do not answer", more)
    ill = [node for node in view.nodes if node.reply and node.reply.health == "unhealthy"]
    for node in ill[:MAX_NAMED]:
        why = (node.reply and node.reply.error) or "it gives no reason"
        text = f"{node.id} is unhealthy: {why}; see its log"
        yield Diagnosis("health", "problem", text, [node.id])
    answered = sum(node.reply is not None for node in view.nodes)
    if not silent:
        yield Diagnosis(topic, "ok", f"all {answered} nodes answer this machine")


def _clocks(view: View) -> Iterator[Diagnosis]:
    far = [
        (node, node.reply.clock_ahead)
        for node in view.nodes
        if node.reply and abs(node.reply.clock_ahead) > CLOCK_WARNING
    ]
    asked = [node for node in view.nodes if node.reply]
    if asked and len(far) * 2 > len(asked):
        ahead = sorted(by for _, by in far)[len(far) // 2]
        text = (
            f"most nodes are {_apart(ahead)} this machine, so its own clock is probably wrong; "
            f"set it, and let NTP keep it"
        )
        level = "problem" if abs(ahead) >= CLOCK_PROBLEM else "warning"
        yield Diagnosis("clock", level, text)
        return
    for node, ahead in far[:MAX_NAMED]:
        level = "problem" if abs(ahead) >= CLOCK_PROBLEM else "warning"
        text = f"the clock of {node.id} is {_apart(ahead)} this one; set it, and let NTP keep it"
        yield Diagnosis("clock", level, text, [node.id])
    if asked and not far:
        text = f"the clocks of all {len(asked)} nodes that answer agree to {CLOCK_WARNING:g} s"
        yield Diagnosis("clock", "ok", text)


def _apart(ahead: float) -> str:
    return f"{span(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'}"


def _addresses(view: View) -> Iterator[Diagnosis]:
    topic, used = "addresses", dict[str, list[str]]()
    for node in view.nodes:
        if node.info.status == "alive" and node.info.address:
            used.setdefault(node.info.address, []).append(node.id)
    wrong = False
    for address, ids in used.items():
        if len(ids) > 1:
            wrong = True
            text = f"{_named(ids)} all say that they are at {address}; give each its own"
            yield Diagnosis(topic, "problem", text, ids)
    any_address = [ids[0] for address, ids in used.items() if address.startswith(_WILDCARD)]
    if any_address:
        wrong = True
        text = (
            f"{_named(any_address)} can be reached by nobody else, since each tells others to dial "
            f"any address; set --advertise"
        )
        yield Diagnosis(topic, "problem", text, any_address)
    local = [ids[0] for address, ids in used.items() if address.startswith(_LOOPBACK)]
    if local and len(local) < len(used):
        wrong = True
        text = (
            f"{_named(local)} can be reached from their own machine only, others from elsewhere; "
            f"set --advertise to an address of the network"
        )
        yield Diagnosis(topic, "warning", text, local)
    if not wrong:
        yield Diagnosis(topic, "ok", "each node has an address of its own")


def _certificates(view: View) -> Iterator[Diagnosis]:
    now, topic = view.taken_at, "certificates"
    seen = [node for node in view.nodes if node.certificate]
    due = [node for node in seen if _style(node, now) == "yellow"]
    ended = [node for node in seen if _style(node, now) == "red"]
    if ended:
        text = (
            f"the certificates of {_named([node.id for node in ended])} have expired; make a token "
            f"for each with `aegis certs token ID`, or issue new ones"
        )
        yield Diagnosis(topic, "problem", text, [node.id for node in ended])
    if due:
        text = (
            f"the certificates of {_named([node.id for node in due])} have less than a third of "
            f"their life left; see that an issuer runs, or renew them with `aegis certs renew`"
        )
        yield Diagnosis(topic, "warning", text, [node.id for node in due])
    for one in view.authorities:
        if one.style(now) != "green":
            text = (
                f"the CA {one.subject} ends in {one.left(now)}; rotate it with "
                f"`aegis certs rotate-ca`"
            )
            yield Diagnosis("CA", "problem" if one.not_after <= now else "warning", text)
    if not due and not ended:
        yield Diagnosis(topic, "ok", f"none of {len(seen)} is due or has expired")


def _style(node: Seen, now: datetime) -> str:
    return node.certificate.style(now) if node.certificate else ""


def _trust(view: View) -> Iterator[Diagnosis]:
    bundles = _grouped((node.id, node.info.trust_bundle) for node in view.nodes if _counts(node))
    if len(bundles) > 1:
        least = min(bundles.values(), key=len)
        text = (
            f"{_named(least)} trust other CAs than the rest; where a rotation goes on, wait before "
            f"the next step, else copy `ca-cert.pem`, or give them a token"
        )
        yield Diagnosis("trust bundle", "warning", text, least)
    elif bundles:
        yield Diagnosis("trust bundle", "ok", "all nodes trust the same CAs")


def _versions(view: View) -> Iterator[Diagnosis]:
    for package in ("aegis-core", "grpcio"):
        found = _grouped(
            (node_id, text_of(_object(stats.get("versions")).get(package), 40))
            for node_id, stats in view.stats.items()
        )
        if len(found) > 1:
            listed = "; ".join(
                f"{version} on {_named(ids)}" for version, ids in sorted(found.items())
            )
            text = f"{package}: {listed}; upgrade the older ones"
            yield Diagnosis("versions", "warning", text)
        elif found:
            yield Diagnosis("versions", "ok", f"{package} is {next(iter(found))} everywhere")


def _topologies(view: View) -> Iterator[Diagnosis]:
    known, topic = len(view.nodes), "views"
    apart = [
        node_id
        for node_id, stats in view.stats.items()
        if "topology_nodes" in stats and number_of(stats["topology_nodes"]) != known
    ]
    if apart:
        text = (
            f"{_named(apart)} know another number of nodes than {view.source}, which knows {known};"
            f" if that stays, compare two with `aegis mesh diff`"
        )
        yield Diagnosis(topic, "warning", text, apart)
    elif view.stats:
        yield Diagnosis(topic, "ok", f"all nodes that tell it know {known} nodes")


def _counts(node: Seen) -> bool:
    return bool(node.info.status == "alive" and node.info.trust_bundle)


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for node_id, value in pairs:
        if value:
            found.setdefault(value, []).append(node_id)
    return found


def _named(ids: Sequence[str]) -> str:
    shown = ", ".join(ids[:MAX_NAMED])
    return f"{shown} and {len(ids) - MAX_NAMED} more" if len(ids) > MAX_NAMED else shown
