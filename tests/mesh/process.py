"""Real processes, started from scripts; each prints messages, one JSON object a line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 20.0
"""Seconds after which a wait fails. A bound for a busy machine, not a measurement."""

START = 60.0
"""The same for the start of a process: it takes a second of CPU, and many start at once."""

Message = dict[str, Any]


class Process:
    """A running script and the messages that it has printed.

    Args:
        script: The name of a script beside this file.
        options: Passed to the script as JSON.
        log: The file for its standard error.
        prefix: Words before the command; they must exec the command, so that it keeps its pid.
    """

    def __init__(
        self, script: str, options: Message, log: Path, *, prefix: Sequence[str] = ()
    ) -> None:
        self.log = log
        self._messages: list[Message] = []
        self._arrived = threading.Condition()
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [
                    *prefix,
                    sys.executable,
                    str(Path(__file__).with_name(script)),
                    json.dumps(options),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._arrived:
                self._messages.append(json.loads(line))
                self._arrived.notify_all()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def messages(self) -> list[Message]:
        with self._arrived:
            return list(self._messages)

    @property
    def events(self) -> list[str]:
        return [message["event"] for message in self.messages if "event" in message]

    def wait(
        self, wanted: Callable[[Message], object], *, since: int = 0, within: float = PATIENCE
    ) -> Message:
        """Waits for a message and returns it; fails after `within` seconds."""
        with self._arrived:
            found = self._arrived.wait_for(
                lambda: next(
                    (message for message in self._messages[since:] if wanted(message)), None
                ),
                within,
            )
        if not found:
            errors = self.log.read_text()[-2000:]
            pytest.fail(
                f"no such message within {within:g} s, but {self.messages[-10:]}; log: {errors}"
            )
        return found

    def wait_event(self, event: str, *, since: int = 0, status: str | None = None) -> Message:
        return self.wait(
            lambda message: message.get("event") == event and status in (None, message["status"]),
            since=since,
        )

    def position(self) -> int:
        """Returns the index of the next message."""
        return len(self.messages)

    def send(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def ask(self, question: str) -> Message:
        """Sends a word and waits for the message that has it as a key."""
        since = self.position()
        self.send(question)
        return self.wait(lambda message: question in message, since=since)

    def signal(self, number: signal.Signals) -> float:
        """Sends a signal; returns the time (monotonic seconds)."""
        at = time.monotonic()
        self._process.send_signal(number)
        return at

    def close_input(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wait_exit(self) -> int:
        code = self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def kill(self) -> None:
        # Only SIGKILL ends a stopped process.
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


class NodeProcess(Process):
    """A process that runs a node."""

    def __init__(
        self, node_id: str, log: Path, *, prefix: Sequence[str] = (), **options: Any
    ) -> None:
        self.id = node_id
        super().__init__("node_process.py", {"id": node_id, **options}, log, prefix=prefix)

    @property
    def address(self) -> str:
        return str(self.wait(lambda message: "ready" in message, within=START)["ready"])
