"""Tells what was started before a process was forked, which gRPC and threads do not survive."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forkable(Protocol):
    """Something that belongs to the process that started it."""

    def after_fork_in_child(self) -> None:
        """Takes note that this is the forked child of that process; from now on it refuses."""


_started: weakref.WeakSet[Forkable] = weakref.WeakSet()


def register_at_fork(thing: Forkable) -> None:
    """Notes that something is of use in this process only; that costs nothing until a fork."""
    _started.add(thing)


def _tell_all() -> None:
    for thing in list(_started):
        thing.after_fork_in_child()
    _started.clear()


if hasattr(os, "register_at_fork"):  # where there is no fork there is nothing to tell
    os.register_at_fork(after_in_child=_tell_all)
