"""All that one caller may let a node hold, each bound with what it knows of the others. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from aegis_core._server.caller_limits import CallerLimits
from aegis_core._server.held.request_reads import RequestReads
from aegis_core._server.held.unfinished_messages import UnfinishedMessages
from aegis_core._server.held.unseen_calls import UnseenCalls
from aegis_core._server.held.unsent_answers import UnsentAnswers

CallT = TypeVar("CallT")


class Bounds(Generic[CallT]):
    """Bounds what callers hold. It may be used from any thread.

    Args:
        callers: Limits the calls of one caller.
        workers_of: Returns how many processes share an identity, and so have its limits together.

    Attributes:
        answers: Counts answers that their callers do not read.
        reads: Limits the requests of one caller that are read at once.
        unfinished: Bounds messages of which a part has arrived, or which handlers keep.
        unseen: Finds who sends too many calls.
    """

    def __init__(self, callers: CallerLimits, workers_of: Callable[[str], int]) -> None:
        self.answers = UnsentAnswers(workers_of)
        self.unfinished = UnfinishedMessages[CallT](workers_of)
        self.reads = RequestReads[CallT](workers_of, self.answers.full, callers.blocked)
        self.unseen = UnseenCalls(
            workers_of, callers.is_blocked, callers.max_calls, callers.open, self._held_by
        )
        self.answers.on_room = self.reads.resume
        self.reads.on_many = self.unfinished.watch
        self.unfinished.waiting = self.reads
        self.unfinished.elsewhere = self._held_elsewhere

    def _held_elsewhere(self, caller: str) -> int:
        return self.answers.held_by(caller) + self.reads.running.held_by(caller)

    def _held_by(self, caller: str) -> int:
        # What has arrived in part may be of calls that are not seen yet, and these count anyway.
        return self._held_elsewhere(caller) + self.unfinished.kept_by(caller)
