"""Notifies objects in a forked child, since gRPC and threads do not survive a fork."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forkable(Protocol):
    """An object that works only in the process that started it."""

    def after_fork_in_child(self) -> None:
        """Marks this copy as unusable: it is in a forked child."""


_started: weakref.WeakSet[Forkable] = weakref.WeakSet()


def register_at_fork(instance: Forkable) -> None:
    """Calls its `after_fork_in_child` in each forked child; costs nothing until then."""
    _started.add(instance)


def _after_fork() -> None:
    for instance in list(_started):
        instance.after_fork_in_child()
    _started.clear()


if hasattr(os, "register_at_fork"):  # some platforms have no fork
    os.register_at_fork(after_in_child=_after_fork)
