"""`mesh certs`: the certificates that a mesh uses, by what ends next."""

from __future__ import annotations

from datetime import datetime, timedelta

from aegis_cli._output.answer import Answer
from aegis_cli._output.table import Cell, Column, Table
from aegis_cli._view.model import CertificateSeen, Filter, View, span
from aegis_cli._view.status import head

_COLUMNS = (
    Column("CERTIFICATE", folds=True),
    Column("ENDS IN", right=True),
    Column("ENDS AT"),
    Column("ISSUER", folds=True, optional=1),
)


def certificates(view: View, chosen: Filter, *, within: float | None = None) -> Answer:
    """The certificates of the nodes that a filter takes, and of the CAs.

    Args:
        view: The mesh.
        chosen: Which nodes.
        within: Only those that end within so many seconds; they count as wrong then.
    """
    now = view.taken_at
    nodes = [node for node in view.nodes if chosen.takes(node)]
    found = [(node.id, node.certificate) for node in nodes if node.certificate]
    if not chosen:
        found += [(f"CA {one.subject}", one) for one in view.authorities]
    found.sort(key=lambda one: (one[1].not_after, one[0]))
    if within is not None:
        found = [one for one in found if one[1].not_after <= now + timedelta(seconds=within)]
    unseen = [node.id for node in nodes if node.certificate is None]
    notes = []
    if unseen:
        shown = ", ".join(unseen[:5]) + (f" and {len(unseen) - 5} more" if len(unseen) > 5 else "")
        notes.append(Cell(f"Not seen, since others vouch for them: {shown}.", "yellow"))
    lines = head(view, nodes, chosen)
    if within is not None:
        ends = f"{len(found)} certificate{'s' * (len(found) != 1)} end"
        lines.append(Cell(f"{ends} within {span(within)}", "red" if found else "green"))
    return Answer(
        {
            "taken_at": now,
            "source": view.source,
            "certificates": [_json(name, one, now) for name, one in found],
            "unseen": unseen,
        },
        lines,
        Table(_COLUMNS, [_row(name, one, now) for name, one in found]),
        notes,
        wrong=sum(1 for _, one in found if within is not None or one.not_after <= now),
    )


def _row(name: str, one: CertificateSeen, now: datetime) -> list[Cell]:
    return [
        Cell(name),
        Cell(one.left(now), one.style(now)),
        Cell(f"{one.not_after:%Y-%m-%d %H:%M} UTC"),
        Cell(one.issuer),
    ]


def _json(name: str, one: CertificateSeen, now: datetime) -> dict[str, object]:
    return {
        "name": name,
        "issuer": one.issuer,
        "not_before": one.not_before,
        "not_after": one.not_after,
        "seconds_left": int((one.not_after - now).total_seconds()),
    }
