"""The output of the demo: for people while it runs, and as JSON at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

from aegis_certs.cli import show_json
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from aegis_cli._console import console, print_lines
from aegis_cli._output.show import takes_colors
from aegis_cli._view.model import Filter, View
from aegis_cli._view.status import status
from aegis_cli.demo._results import Calls, Member


class DemoOutput:
    """Shows progress on standard error, and results on standard output: at the end, if as JSON."""

    def __init__(self, *, json: bool) -> None:
        self._facts: dict[str, object] = {}
        self._json = json
        self._out = console()
        self._progress = console(stderr=True)
        self._step = 0

    @contextmanager
    def progress(self, text: str) -> Iterator[Callable[[str], None]]:
        """Shows a step that takes time, until it ends; yields a function that adds a detail."""
        if not self._progress.is_terminal:
            self._progress.print(f"{text} …")
            yield lambda detail: self._progress.print(f"  {detail}")
            return
        with self._progress.status(f"{text} …") as status:
            yield lambda detail: status.update(f"{text} … {detail}")

    def identities(self, names: Sequence[str], seconds: float) -> None:
        self._facts["identities"] = {"names": names, "seconds": round(seconds, 3)}
        self._title(f"Created a CA and identities for {', '.join(names)} ({seconds:.1f} s)")

    def nodes(self, seed: Member, others: Sequence[Member]) -> None:
        members = [seed, *others]
        self._facts["nodes"] = [asdict(member) for member in members]
        self._title(f"Started three nodes, one process each; the others joined through {seed.id}")
        rows = [(member.id, str(member.pid), member.address) for member in members]
        self._table(("NODE", "PROCESS", "ADDRESS"), rows)

    def mesh(self, mesh: View) -> None:
        self._facts["mesh"] = status(mesh, Filter()).json
        self._title("All three have the same topology")
        self._status(mesh)

    def calls(self, calls: Sequence[Calls]) -> None:
        self._facts["calls"] = [_calls_json(result) for result in calls]
        node, client = (result.caller for result in calls)
        self._title(f"Called greeter/v1 from a node ({node}) and from a plain client ({client})")
        self._calls_table(calls)
        self._say(Text("   The client imports aegis_discovery, and not aegis_core.", "dim"))

    def kill(
        self, victim: Member, detected_after: float, calls: Sequence[Calls], mesh: View
    ) -> None:
        self._facts["kill"] = {
            "victim": asdict(victim),
            "noticed_after_s": round(detected_after, 3),
            "calls": [_calls_json(result) for result in calls],
            "mesh": status(mesh, Filter()).json,
        }
        self._title(
            f"Killed {victim.id} (SIGKILL) under load; "
            f"all others saw it fail within {detected_after:.1f} s"
        )
        self._calls_table(calls)
        self._say()
        self._status(mesh)

    def kept(self, command: str) -> None:
        self._facts["status_command"] = command
        self._title("The mesh keeps running until Ctrl-C; look at it from another terminal")
        self._say(Text(f"   {command}"), soft_wrap=True)

    def ended(self, seconds: float) -> None:
        self._title(f"All processes have ended, and nothing is left behind ({seconds:.1f} s)")

    def print_json(self, seconds: float) -> None:
        """Prints all results if JSON is asked for; `seconds` is how long the demo took."""
        if self._json:
            show_json({**self._facts, "seconds": round(seconds, 3)})

    def _title(self, text: str) -> None:
        self._step += 1
        blank = "\n" if self._step > 1 else ""
        self._say(Text.assemble(blank, (f"{self._step}  {text}", "bold")))

    def _status(self, mesh: View) -> None:
        lines = status(mesh, Filter()).lines(self._out.width, colors=takes_colors())
        self._say(Text.from_ansi("\n".join(lines)), soft_wrap=True)

    def _calls_table(self, calls: Sequence[Calls]) -> None:
        providers = sorted({provider for result in calls for provider in result.by_provider})
        names = (f"BY {provider}" for provider in providers)
        rows = [
            (
                result.caller,
                str(result.total),
                str(len(result.failures)),
                *(str(result.by_provider.get(provider, 0)) for provider in providers),
                ", ".join(result.seen_callers),
            )
            for result in calls
        ]
        self._table(("CALLER", "CALLS", "FAILED", *names, "SEEN AS"), rows)

    def _table(self, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for name in names:
            table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*row)
        self._say(Padding(table, (0, 0, 0, 3), expand=False))

    def _say(self, what: RenderableType = "", *, soft_wrap: bool = False) -> None:
        if self._json:
            return
        if soft_wrap:
            self._out.print(what, soft_wrap=True)
        else:
            print_lines(self._out, what)


def _calls_json(result: Calls) -> dict[str, object]:
    return {
        "caller": result.caller,
        "calls": result.total,
        "failed": len(result.failures),
        "by_provider": result.by_provider,
        "providers_say_caller_is": result.seen_callers,
        "loaded_aegis_core": result.loaded_aegis_core,
    }
