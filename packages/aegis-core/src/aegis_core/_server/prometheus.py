"""The metrics of a node in Prometheus' text format. Pure.

OpenTelemetry has no histogram that is read from counts which exist already, so its exporter would
need every call to be recorded twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from aegis_discovery.signals import LATENCY_BOUNDS

if TYPE_CHECKING:
    from aegis_discovery import EdgeStats, ServiceStats

    from aegis_core._stats import NodeStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = Mapping[str, str]


def metrics_text(stats: NodeStats) -> str:
    """Returns all metrics of a node."""
    lines: list[str] = []
    for name, kind, help_text, samples in _families(stats):
        lines += (f"# HELP {name} {help_text}", f"# TYPE {name} {kind}")
        lines += samples
    return "\n".join(lines) + "\n"


def escape(value: str) -> str:
    """Returns the text of a label's value, which a peer may have written."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


_Family = tuple[str, str, str, list[str]]


def _sample(name: str, value: float, labels: Labels | None = None) -> str:
    number = repr(round(value, 6)) if isinstance(value, float) else str(value)
    if not labels:
        return f"{name} {number}"
    inside = ",".join(f'{key}="{escape(text)}"' for key, text in labels.items())
    return f"{name}{{{inside}}} {number}"


def _families(stats: NodeStats) -> Iterator[_Family]:
    yield from _node_families(stats)
    yield from _pool_families(stats.pool.services)
    for side, counted in (("server", "call"), ("client", "attempt")):
        edges = [edge for edge in stats.edges if edge.side == side]
        yield from _edge_families(edges, side, counted)


def _node_families(stats: NodeStats) -> Iterator[_Family]:
    calls, feeds = stats.calls, stats.feeds
    expires, started = stats.certificate_not_after.timestamp(), stats.started_at.timestamp()
    for name, kind, help_text, value in (
        ("aegis_start_time_seconds", "gauge", "When the node started, in Unix seconds.", started),
        (
            "aegis_certificate_not_after_seconds",
            "gauge",
            "When the node's certificate expires, in Unix seconds.",
            expires,
        ),
        ("aegis_topology_nodes", "gauge", "Nodes in the topology.", stats.topology_nodes),
        (
            "aegis_event_loop_lag_seconds",
            "gauge",
            "By how much the latest check of the event loop was late.",
            stats.loop_lag,
        ),
        (
            "aegis_feeds_served",
            "gauge",
            "Watchers with a feed of this node.",
            feeds.served,
        ),
        ("aegis_feeds_watched", "gauge", "Nodes whose feeds this node holds open.", feeds.watched),
        (
            "aegis_feed_lag_seconds",
            "gauge",
            "Seconds since the last message of the watched node that was silent longest.",
            feeds.lag,
        ),
        ("aegis_calls_running", "gauge", "Calls of the node's services that run.", calls.running),
        ("aegis_calls_shed_total", "counter", "Calls shed at the limit of calls.", calls.shed),
        ("aegis_calls_denied_total", "counter", "Calls that a policy denied.", calls.denied),
        (
            "aegis_calls_refused_total",
            "counter",
            "Calls whose caller's certificate was refused.",
            calls.refused,
        ),
        (
            "aegis_calls_over_limit_total",
            "counter",
            "Calls refused for a limit of their caller.",
            calls.over_limit,
        ),
    ):
        yield name, kind, help_text, [_sample(name, value)]
    name = "aegis_nodes"
    by_status = [_sample(name, n, {"status": status}) for status, n in stats.nodes.items()]
    yield name, "gauge", "Nodes in the topology, by status.", by_status
    name = "aegis_document_sequence"
    documents = [_sample(name, n, {"document": key}) for key, n in stats.documents.items()]
    yield name, "gauge", "Sequences of what the CA of the mesh has published.", documents


def _pool_families(services: Iterable[ServiceStats]) -> Iterator[_Family]:
    labelled = [
        ({"grpc_lb_backend_service": f"{service.name}/{service.version}"}, service)
        for service in services
    ]
    for field, help_text in (
        ("picks", "Providers chosen for calls and their retries."),
        ("retries", "Retries at another provider."),
        ("retries_refused", "Retries that the retry budget did not allow."),
        ("ejections", "Ejections of providers."),
        ("sheds", "Calls that a provider shed."),
    ):
        name = f"aegis_pool_{field}_total"
        samples = [_sample(name, getattr(service, field), labels) for labels, service in labelled]
        yield name, "counter", help_text, samples
    name, states = "aegis_pool_endpoints", []
    for labels, service in labelled:
        counts: dict[str, int] = {}
        for endpoint in service.endpoints:
            counts[endpoint.state] = counts.get(endpoint.state, 0) + 1
        states += [_sample(name, n, {**labels, "state": state}) for state, n in counts.items()]
    yield name, "gauge", "Providers of a service, by state.", states


def _edge_families(edges: list[EdgeStats], side: str, counted: str) -> Iterator[_Family]:
    prefix = f"grpc_{side}_{counted}"
    started, ended, seconds = [], [], []
    by_method: dict[tuple[str, str], list[EdgeStats]] = {}
    for edge in edges:
        labels = {**_of_method(edge.service, edge.method), **_of_peers(edge)}
        started.append(_sample(f"{prefix}_started_total", edge.started, labels))
        seconds.append(_sample(f"aegis_{side}_{counted}_seconds_total", edge.seconds.sum, labels))
        for code, count in edge.codes.items():
            status = {**labels, "grpc_status": code}
            ended.append(_sample(f"aegis_{side}_{counted}_ended_total", count, status))
        by_method.setdefault((edge.service, edge.method), []).append(edge)
    what = f"{counted.capitalize()}s on the {side}'s side"
    yield f"{prefix}_started_total", "counter", f"{what} that began, by edge.", started
    ended_name, seconds_name = (f"aegis_{side}_{counted}_{x}_total" for x in ("ended", "seconds"))
    yield ended_name, "counter", f"{what} that ended, by edge and status.", ended
    yield seconds_name, "counter", f"{what} that ended: their seconds, by edge.", seconds
    name = f"{prefix}_duration_seconds"
    samples: list[str] = []
    for (service, method), of_method in by_method.items():
        samples += _histogram(name, _of_method(service, method), of_method)
    yield name, "histogram", f"{what}: how long they took, by method.", samples


def _histogram(name: str, labels: Labels, edges: list[EdgeStats]) -> Iterator[str]:
    below = 0
    for bound, *counts in zip(
        (*LATENCY_BOUNDS, "+Inf"), *(edge.seconds.buckets for edge in edges), strict=True
    ):
        below += sum(counts)
        text = bound if isinstance(bound, str) else f"{bound:g}"
        yield _sample(f"{name}_bucket", below, {**labels, "le": text})
    yield _sample(f"{name}_sum", sum(edge.seconds.sum for edge in edges), labels)
    yield _sample(f"{name}_count", below, labels)


def _of_method(service: str, method: str) -> Labels:
    return {"grpc_method": method, "grpc_lb_backend_service": service}


def _of_peers(edge: EdgeStats) -> Labels:
    peer = "aegis_caller" if edge.side == "server" else "aegis_provider"
    return {peer: edge.caller if edge.side == "server" else edge.provider}
