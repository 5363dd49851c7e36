"""Real processes, started from scripts and never forked, whose every line is a fact."""

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
"""Seconds after which a wait has failed: a bound for a busy machine, never a measurement."""

START = 60.0
"""The same for a process that starts, which takes a second of CPU, and many start at once."""

Fact = dict[str, Any]


class Process:
    """A script that runs, and what it told so far.

    Args:
        script: One of those beside this file.
        options: What it is to be.
        log: Takes its standard error.
        prefix: Goes before the command; must become the command, not start it.
    """

    def __init__(
        self, script: str, options: Fact, log: Path, *, prefix: Sequence[str] = ()
    ) -> None:
        self.log = log
        self._facts: list[Fact] = []
        self._told = threading.Condition()
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
            with self._told:
                self._facts.append(json.loads(line))
                self._told.notify_all()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def facts(self) -> list[Fact]:
        with self._told:
            return list(self._facts)

    @property
    def events(self) -> list[str]:
        return [fact["event"] for fact in self.facts if "event" in fact]

    def wait(
        self, wanted: Callable[[Fact], object], *, since: int = 0, within: float = PATIENCE
    ) -> Fact:
        """Waits for a fact, at most a while, and returns it."""
        with self._told:
            found = self._told.wait_for(
                lambda: next((fact for fact in self._facts[since:] if wanted(fact)), None), within
            )
        if not found:
            errors = self.log.read_text()[-2000:]
            pytest.fail(f"not told within {within:g} s; told: {self.facts[-10:]}; log: {errors}")
        return found

    def wait_event(self, event: str, *, since: int = 0, status: str | None = None) -> Fact:
        return self.wait(
            lambda fact: fact.get("event") == event and status in (None, fact["status"]),
            since=since,
        )

    def mark(self) -> int:
        """Returns where the facts to come begin."""
        return len(self.facts)

    def say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def ask(self, question: str) -> Fact:
        """Sends a word and waits for the answer that has it as its key."""
        since = self.mark()
        self.say(question)
        return self.wait(lambda fact: question in fact, since=since)

    def signal(self, number: signal.Signals) -> float:
        """Sends a signal; returns when."""
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
        # A stopped process dies of nothing else.
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


class NodeProcess(Process):
    """A node, serving."""

    def __init__(
        self, node_id: str, log: Path, *, prefix: Sequence[str] = (), **options: Any
    ) -> None:
        self.id = node_id
        super().__init__("node_process.py", {"id": node_id, **options}, log, prefix=prefix)

    @property
    def address(self) -> str:
        return str(self.wait(lambda fact: "ready" in fact, within=START)["ready"])
