"""The page: its files, its state, and the order in which a request is checked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from importlib.resources import files

from aegis_cli._ui.access import Access
from aegis_cli._ui.http import Request, Response, refused
from aegis_cli._ui.server import LoopbackServer
from aegis_cli._ui.watching import Source, Watch
from aegis_cli._view.page import Page

_KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
FILES = ("index.html", "page.css", "page.js", "tables.js", "picture.js", "layout.js", "icon.svg")


class PageServer:
    """Serves the page of a mesh.

    Args:
        mesh: The name of the mesh.
        source: Where its views come from.
        note: Tells the user something that happened.
    """

    def __init__(self, mesh: str, source: Source, note: Callable[[str], None]) -> None:
        self._page = Page(mesh)
        self._source = source
        self._watch = Watch(self._page, source)
        self._files = _static_files()
        self._note = note
        self._server = LoopbackServer(self._answer)
        self._access: Access | None = None
        self._reading: asyncio.Task[None] | None = None

    async def start(self, port: int) -> str:
        """Reads the mesh and begins to listen; returns the address to open.

        Raises:
            CannotListenError: The port is taken, or not allowed.
            aegis_discovery.ConnectError: The mesh cannot be read.
            aegis_certs.CertsError: There is no identity to read it with.
        """
        await self._watch.start()
        self._access = Access(await self._server.start(port))
        self._reading = asyncio.create_task(self._watch.run())
        return self._access.address

    async def run(self) -> None:
        """Serves until it is cancelled."""
        assert self._reading is not None  # noqa: S101 - it was started
        await self._reading

    async def close(self) -> None:
        """Ends all connections."""
        await self._server.close()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        await self._source.close()

    async def _answer(self, request: Request) -> Response:
        access = self._access
        if access is None:  # it listens, but the port is not known here yet
            return refused(HTTPStatus.SERVICE_UNAVAILABLE, "The page is not ready yet.")
        if refusal := access.refusal(request):
            return refusal
        token = request.query.get("token") if request.path == "/" else None
        if token is not None and not access.is_known(request):
            return self._exchanged(access, token)
        if not access.is_known(request):
            return refused(
                HTTPStatus.UNAUTHORIZED,
                "Open the address that `aegis ui` has printed, or start it again for another one.",
            )
        if token is not None:  # a reload of the first address
            return Response(HTTPStatus.SEE_OTHER, headers={"Location": "/"})
        if request.path == "/state":
            return await self._state(request.query.get("find", ""))
        found = self._files.get(request.path)
        return found or refused(HTTPStatus.NOT_FOUND, "There is no such page.")

    def _exchanged(self, access: Access, token: str) -> Response:
        if exchanged := access.exchange(token):
            self._note("A browser has opened the page; the address is used up.")
            return exchanged
        if access.is_used(token):
            self._note(
                "The address was opened once more and refused, since it is good for one browser. "
                "If the first one was not yours, end this command."
            )
        return refused(
            HTTPStatus.FORBIDDEN,
            "This address is wrong, or was used already: start `aegis ui` again for another one.",
        )

    async def _state(self, find: str) -> Response:
        patience = await self._watch.asked()
        state = self._page.state(find, datetime.now(UTC), patience=patience)
        body = json.dumps(state, separators=(",", ":"))
        return Response(HTTPStatus.OK, body.encode(), "application/json")


def _static_files() -> Mapping[str, Response]:
    folder = files("aegis_cli._ui").joinpath("static")
    found = {
        f"/{name}": Response(
            HTTPStatus.OK, folder.joinpath(name).read_bytes(), _KINDS[name.rpartition(".")[2]]
        )
        for name in FILES
    }
    found["/"] = found.pop("/index.html")
    return found
