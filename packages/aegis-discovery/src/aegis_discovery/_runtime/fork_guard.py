"""Notifies objects in a forked child, since gRPC and threads do not survive a fork."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Iterator
from typing import Protocol

STACK_SIZE = 8 * 1024 * 1024 + 64 * 1024
"""Bytes of the stacks of gRPC's polling threads: a little more than others have by default.

Smaller ones would be those of threads that have ended, which the system keeps and hands out again.
"""


class Forkable(Protocol):
    """An object that works only in the process that started it."""

    def after_fork_in_child(self) -> None:
        """Marks this copy as unusable: it is in a forked child."""


_started: weakref.WeakSet[Forkable] = weakref.WeakSet()


def register_at_fork(instance: Forkable) -> None:
    """Calls its `after_fork_in_child` in each forked child; costs nothing until then."""
    _started.add(instance)


@contextlib.contextmanager
def stacks_of_own_size() -> Iterator[None]:
    """Lets the threads that are started meanwhile have stacks of another size than all others.

    It is for threads in which gRPC polls. In a forked child, gRPC starts threads of its own before
    any code of ours runs, and the system gives them the stacks of threads that the fork has ended,
    if they have the same size. What gRPC knows of a polling thread is on its stack, and is still
    used in the child, which aborts where it was overwritten. A size that the program has set stays:
    gRPC's own threads have the default.
    """
    before = threading.stack_size(STACK_SIZE)
    is_default = before in {0, STACK_SIZE}  # another thread may be here too
    if not is_default:
        threading.stack_size(before)
    try:
        yield
    finally:
        if is_default:
            threading.stack_size(0)


def _after_fork() -> None:
    for instance in list(_started):
        instance.after_fork_in_child()
    _started.clear()


if hasattr(os, "register_at_fork"):  # some platforms have no fork
    os.register_at_fork(after_in_child=_after_fork)
