"""Shows answers: once, or live until Ctrl-C or SIGTERM."""

from __future__ import annotations

import errno
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from aegis_certs.cli import show_json, width_of

from aegis_cli._output.answer import Answer

_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _ERASE_LINE, _ERASE_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


def takes_colors() -> bool:
    """Whether standard output is a terminal with colours that the user wants."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return sys.stdout.isatty() or bool(os.environ.get("FORCE_COLOR"))


def end_if_nobody_reads() -> None:
    """Ends a command that waits if the reader of its pipe has gone, as `grep -m1` does.

    Raises:
        BrokenPipeError: If so.
    """
    poll = select.poll()
    try:
        poll.register(sys.stdout, 0)  # errors are reported in any case
    except (OSError, ValueError):
        return  # a stream of a test, or a closed one
    if any(flags & select.POLLERR for _, flags in poll.poll(0)):
        raise BrokenPipeError(errno.EPIPE, "nobody reads the output")


def show(answer: Answer, *, json: bool) -> None:
    """Prints an answer."""
    if json:
        show_json(answer.json)
        return
    _print(answer)


def _print(answer: Answer, *, apart: bool = False) -> None:
    lines = answer.lines(width_of(sys.stdout), colors=takes_colors())
    sys.stdout.write("\n".join([*lines, *([""] if apart else [])]) + "\n")
    sys.stdout.flush()


class Screen:
    """Shows one answer after another: in place on a terminal, as lines or JSON elsewhere."""

    def __init__(self, *, json: bool) -> None:
        self._json = json
        self._in_place = not json and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._last: list[str] = []

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Uses the second screen of the terminal, so that the first one is unchanged afterwards."""
        if not self._in_place:
            yield
            return
        last = self._last
        sys.stdout.write(_ENTER)
        try:
            yield
        finally:
            sys.stdout.write(_LEAVE)
            # The last answer stays readable after the end.
            sys.stdout.write("\n".join(last) + ("\n" if last else ""))
            sys.stdout.flush()

    def show_old(self, answer: Answer) -> None:
        """Shows the last answer again, with a mark, where it is on the screen anyway."""
        if self._in_place:
            self.show(answer)

    def show(self, answer: Answer) -> None:
        """Shows the next answer."""
        if self._json:
            show_json(answer.json, indent=None)
            sys.stdout.flush()
            return
        if not self._in_place:
            _print(answer, apart=True)
            return
        import shutil  # loads slowly

        size = shutil.get_terminal_size()
        lines = answer.lines(size.columns, colors=takes_colors())
        self._last[:] = lines
        room = max(1, size.lines - 1)
        if len(lines) > room:
            # What is wrong is at the top, so the end is what a small terminal misses.
            lines = [*lines[: room - 1], f"… {len(lines) - room + 1} more lines"[: size.columns]]
        # Written in one piece over what is there: nothing flickers and nothing scrolls.
        shown = f"{_ERASE_LINE}\r\n".join(lines)
        sys.stdout.write(f"{_HOME}{shown}{_ERASE_LINE}\r\n{_ERASE_BELOW}")
        sys.stdout.flush()
