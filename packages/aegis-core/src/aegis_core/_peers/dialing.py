"""When to dial whom: what the shell that holds the feeds open and its simulation go by."""

from __future__ import annotations

from collections.abc import Callable, Collection

from aegis_core._membership.membership import Membership

RECOVER_EVERY = 2.0
"""Seconds between two tries to reach some node that was lost: it may be back."""

RECOVERY = 5.0
"""Seconds for one such try."""

LEFT_PAUSE = 1.0
"""Seconds until a peer that ended its feed in order is dialled again."""

REDIAL_AFTER = 10.0
"""Seconds of silence after which a feed's connection is given up; the node is failed by then."""

DIALS = 32
"""Nodes known by hearsay only that are dialled at once: whoever invents some chooses where."""

DIALS_PER_SECOND = 8.0
"""The same a second from then on, until they answer."""

GOODBYES = 3
"""Nodes that a leaving node tells so, beside those that watch it."""

MAINTENANCE = 30.0
"""Seconds between two looks at leases."""


def lost_one(
    membership: Membership, watched: Collection[str], choose: Callable[[list[str]], str]
) -> str | None:
    """Picks one of those that are missing, and not dialled anyway, to be tried once more."""
    lost = sorted(membership.missing.difference(watched))
    return choose(lost) if lost else None
