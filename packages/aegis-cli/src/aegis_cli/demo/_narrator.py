"""Tells what the demo does: to people while it happens, to machines at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

from aegis_certs.cli import console, show_json
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from aegis_cli._mesh.status import MeshFacts
from aegis_cli._mesh.table import mesh_json, mesh_table
from aegis_cli.demo._facts import Calls, Kill, Member


class Narrator:
    """Shows progress on standard error, and facts on standard output.

    Args:
        json: Show facts as one JSON document, at the end.
    """

    def __init__(self, *, json: bool) -> None:
        self._facts: dict[str, object] = {}
        self._json = json
        self._out = console()
        self._progress = console(stderr=True)
        self._chapter = 0

    @contextmanager
    def progress(self, text: str) -> Iterator[Callable[[str], None]]:
        """Shows what takes time now; gives what adds to it. A terminal forgets it afterwards."""
        if not self._progress.is_terminal:
            self._progress.print(f"{text} …")
            yield lambda more: self._progress.print(f"  {more}")
            return
        with self._progress.status(f"{text} …") as status:
            yield lambda more: status.update(f"{text} … {more}")

    def identities(self, names: Sequence[str], seconds: float) -> None:
        """The identities were made."""
        self._facts["identities"] = {"names": names, "seconds": round(seconds, 3)}
        listed = f"{', '.join(names[:-1])} and {names[-1]}"
        self._title(f"A CA, and identities for {listed} ({seconds:.1f} s)")

    def started(self, seed: Member, others: Sequence[Member]) -> None:
        """The nodes run."""
        members = [seed, *others]
        self._facts["nodes"] = [asdict(member) for member in members]
        self._title(f"Three nodes, a process each; the others joined through {seed.id}")
        self._table(
            ("NODE", "PROCESS", "ADDRESS"),
            [(member.id, str(member.pid), member.address) for member in members],
        )

    def agreed(self, mesh: MeshFacts) -> None:
        """All nodes see the same topology."""
        self._facts["mesh"] = mesh_json(mesh)
        self._title("All three see the same topology")
        self._mesh(mesh)

    def called(self, calls: Sequence[Calls]) -> None:
        """The calls were made."""
        self._facts["calls"] = [_calls_json(made) for made in calls]
        node, client = (made.caller for made in calls)
        self._title(f"Calls to greeter/v1 from {node}, a node, and {client}, no node")
        self._calls(calls)
        self._say(Text(f"   Of Aegis, {client} has imported aegis_discovery only.", "dim"))

    def killed(self, kill: Kill) -> None:
        """A provider was killed under load."""
        self._facts["kill"] = {
            "victim": asdict(kill.victim),
            "noticed_after_s": round(kill.noticed_after, 3),
            "calls": [_calls_json(made) for made in kill.calls],
            "mesh": mesh_json(kill.mesh),
        }
        self._title(
            f"Killed {kill.victim.id} (SIGKILL) under load; "
            f"{kill.noticed_after:.1f} s later it was failed everywhere"
        )
        self._calls(kill.calls)
        self._say()
        self._mesh(kill.mesh)

    def kept(self, command: str) -> None:
        """The mesh is left running."""
        self._facts["status_command"] = command
        self._title("The mesh runs on until Ctrl-C; look at it from another terminal")
        self._say(Text(f"   {command}"), soft_wrap=True)

    def ended(self, seconds: float) -> None:
        """All is over."""
        self._title(f"All has ended, and nothing is left behind ({seconds:.1f} s in all)")

    def complete(self, seconds: float) -> None:
        """All facts are there; `seconds` is how long that took."""
        if self._json:
            show_json({**self._facts, "seconds": round(seconds, 3)})

    def _title(self, text: str) -> None:
        self._chapter += 1
        self._say(
            Text.assemble("\n" if self._chapter > 1 else "", (f"{self._chapter}  {text}", "bold"))
        )

    def _mesh(self, mesh: MeshFacts) -> None:
        self._say(mesh_table(mesh, self._out.width))

    def _calls(self, calls: Sequence[Calls]) -> None:
        providers = sorted({provider for made in calls for provider in made.by_provider})
        self._table(
            (
                "CALLER",
                "CALLS",
                "FAILED",
                *(f"BY {provider}" for provider in providers),
                "PROVIDERS SEE",
            ),
            [
                (
                    made.caller,
                    str(made.answered + len(made.failures)),
                    str(len(made.failures)),
                    *(str(made.by_provider.get(provider, 0)) for provider in providers),
                    ", ".join(made.providers_say),
                )
                for made in calls
            ],
        )

    def _table(self, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for name in names:
            table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*row)
        self._say(Padding(table, (0, 0, 0, 3), expand=False))

    def _say(self, what: RenderableType = "", *, soft_wrap: bool = False) -> None:
        if not self._json:
            self._out.print(what, soft_wrap=soft_wrap)


def _calls_json(made: Calls) -> dict[str, object]:
    return {
        "caller": made.caller,
        "calls": made.answered + len(made.failures),
        "failed": len(made.failures),
        "by_provider": made.by_provider,
        "providers_say_caller_is": made.providers_say,
        "loaded_aegis_core": made.loaded_aegis_core,
    }
