"""The page over real sockets: its files, its limits, and what a stranger gets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from http.client import HTTPMessage, parse_headers
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from aegis_certs import CertificateAuthority, KeyType
from aegis_cli._mesh.connecting import MeshPlace
from aegis_cli._ui import page_server, server, watching
from aegis_cli._ui.page_server import FILES, PageServer
from aegis_cli._ui.watching import MeshSource
from aegis_cli._view.model import Seen, View
from aegis_cli.errors import CannotListenError
from aegis_core.aio import Node
from aegis_discovery import NodeInfo, ServiceInfo

STATIC = Path(page_server.__file__).with_name("static")


class OneNode:
    """A mesh of one node with a name."""

    def __init__(self) -> None:
        self.node = NodeInfo("a")
        self.reads = 0
        self.is_closed = False

    async def read(self, last: View | None) -> View:
        self.reads += 1
        now = datetime.now(UTC)
        return View(now, "a", self.reads, "ab", now, (Seen(self.node),))

    async def close(self) -> None:
        self.is_closed = True


class Browser:
    """Sends requests, each on a connection of its own."""

    def __init__(self, address: str) -> None:
        self.host, _, self.token = address.removeprefix("http://").partition("/?token=")
        self.cookie = ""

    async def raw(self, sent: bytes) -> bytes:
        host, _, port = self.host.rpartition(":")
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        writer.write(sent)
        try:
            async with asyncio.timeout(15):
                return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()

    async def get(self, path: str, **headers: str) -> tuple[int, HTTPMessage, bytes]:
        fields = {"Host": self.host, "Cookie": self.cookie, **headers}
        lines = [f"GET {path} HTTP/1.1", *(f"{name}: {text}" for name, text in fields.items())]
        answer = await self.raw("\r\n".join([*lines, "", ""]).encode())
        line, _, rest = answer.partition(b"\r\n")
        head, _, body = rest.partition(b"\r\n\r\n")
        return int(line.split()[1]), parse_headers(BytesIO(head + b"\r\n\r\n")), body

    async def enter(self) -> None:
        status, headers, _ = await self.get(f"/?token={self.token}")
        assert status == 303
        self.cookie = str(headers["Set-Cookie"]).partition(";")[0]

    async def state(self, find: str = "") -> dict[str, Any]:
        status, _, body = await self.get(f"/state?find={find}")
        assert status == 200, body
        state: dict[str, Any] = json.loads(body)
        return state

    async def state_when(self, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        async with asyncio.timeout(15):
            while True:
                state = await self.state()
                if condition(state):
                    return state
                await asyncio.sleep(0.05)


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
async def source() -> OneNode:
    return OneNode()


@pytest.fixture
async def browser(source: OneNode, notes: list[str]) -> AsyncIterator[Browser]:
    page = PageServer("aegis", source, notes.append)
    try:
        yield Browser(await page.start(0))
    finally:
        await page.close()
        assert source.is_closed


async def test_nobody_reads_anything_without_the_cookie(browser: Browser) -> None:
    for path in ("/", "/state", "/page.js", "/nothing", "//state", "/../page.js"):
        status, _, body = await browser.get(path)
        assert (status, body[:16]) == (401, b"Open the address")
    assert (await browser.get("/?token=wrong"))[0] == 403
    assert (await browser.get(f"/state?token={browser.token}"))[0] == 401
    evil = {"Host": "evil.example"}
    assert (await browser.get(f"/?token={browser.token}", **evil))[0] == 421
    await browser.enter()  # none of these has used up the token
    assert (await browser.state())["total"] == 1
    assert (await browser.get("/state", **evil))[0] == 421
    assert (await browser.get("/state", Origin="http://evil.example"))[0] == 403


async def test_a_used_address_is_refused_and_the_user_is_told(
    browser: Browser, notes: list[str]
) -> None:
    await browser.enter()
    assert (await browser.get(f"/?token={browser.token}"))[0] == 303, "a reload is no theft"
    thief = Browser(f"http://{browser.host}/?token={browser.token}")
    status, headers, _ = await thief.get(f"/?token={thief.token}")
    assert (status, headers["Set-Cookie"]) == (403, None)
    assert [note.split()[0:2] for note in notes] == [["A", "browser"], ["The", "address"]]
    assert not any(browser.token in note for note in notes)


async def test_every_answer_forbids_what_the_page_does_not_need(browser: Browser) -> None:
    await browser.enter()
    for path in ("/", "/state", "/page.js", "/nothing", f"/?token={browser.token}", "/?token=x"):
        _, headers, _ = await browser.get(path)
        policy = dict(
            part.strip().partition(" ")[::2]
            for part in headers["Content-Security-Policy"].split(";")
        )
        assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["require-trusted-types-for"] == "'script'"
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Access-Control-Allow-Origin"] is None


async def test_the_page_is_complete_and_needs_nothing_from_elsewhere(browser: Browser) -> None:
    await browser.enter()
    assert {path.name for path in STATIC.iterdir()} == {*FILES}
    for name in FILES:
        status, headers, body = await browser.get("/" if name == "index.html" else f"/{name}")
        assert (status, body) == (200, (STATIC / name).read_bytes())
        text = body.decode()
        assert set(re.findall(r"https?://[^\s\"'`)]+", text)) <= {"http://www.w3.org/2000/svg"}
        if name.endswith(".js"):
            assert headers["Content-Type"].startswith("text/javascript")
            assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text)
    page = (STATIC / "index.html").read_text()
    assert not re.search(r"<style|style=|\son\w+=|<script(?![^>]* src=)", page)


async def test_a_name_that_is_markup_stays_a_text(browser: Browser, source: OneNode) -> None:
    evil = "</script><script>alert(1)</script>\x1b[2J"
    source.node = NodeInfo("a", name=evil, services=(ServiceInfo(evil, "v1"),), region=evil)
    await browser.enter()
    state = await browser.state_when(lambda state: state["nodes"][0]["place"])
    assert state["nodes"][0]["place"] == "</script><script>alert(1)</script> [2J"
    assert state["services"][0]["name"] == "</script><script>alert(1)</script> [2J/v1"
    _, headers, _ = await browser.get("/state")
    assert headers["Content-Type"] == "application/json"


async def test_strangers_cannot_hold_the_page(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "TIMEOUT", 0.5)
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 4)
    host, port = browser.host.split(":")
    slow = [await asyncio.open_connection(host, int(port)) for _ in range(12)]
    for _, writer in slow:
        writer.write(b"GET / HT")
    for reader, writer in slow:  # those above the limit are closed at once, the others soon
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
    for sent, status in (
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"421"),
        (b"POST /state HTTP/1.1\r\nHost: " + browser.host.encode() + b"\r\n\r\n", b"405"),
        (b"G" * 100_000, b""),
    ):
        answer = await browser.raw(sent)
        assert answer.split(b" ", 2)[1:2] == ([status] if status else [])
    await browser.enter()


async def test_silent_connections_do_not_keep_the_browser_away(browser: Browser) -> None:
    host, port = browser.host.split(":")
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(server.MAX_CONNECTIONS + 8):
            _, writer = await asyncio.open_connection(host, int(port))
            stack.callback(writer.close)
        await browser.enter()


async def test_connections_that_are_open_do_not_hold_the_end(
    notes: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    page = PageServer("aegis", OneNode(), notes.append)
    browser = Browser(await page.start(0))
    host, port = browser.host.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    await browser.enter()  # so it has accepted the connection before
    await asyncio.wait_for(page.close(), 5)
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    assert caplog.records == []


async def test_nobody_reads_the_mesh_while_nobody_looks(
    source: OneNode, notes: list[str], monkeypatch: pytest.MonkeyPatch, until: Any
) -> None:
    monkeypatch.setattr(watching, "INTERVAL", 0.01)
    monkeypatch.setattr(watching, "IDLE", 0.05)
    page = PageServer("aegis", source, notes.append)
    browser = Browser(await page.start(0))
    try:
        await browser.enter()
        watch = page._watch
        await until(lambda: not watch._asked.is_set())
        reads = source.reads
        state = await browser.state()
        assert source.reads > reads
        assert state["version"] > reads, "the first answer after a pause is a new one"
    finally:
        await page.close()


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
async def test_where_there_is_no_ipv4_the_page_is_on_the_loopback_of_ipv6(
    notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # No machine has the first address, which is one for documentation.
    monkeypatch.setattr(server, "LOOPBACK", ("192.0.2.1", "::1"))
    page = PageServer("aegis", OneNode(), notes.append)
    try:
        browser = Browser(await page.start(0))
        assert browser.host.startswith("[::1]:")
        await browser.enter()
        assert (await browser.state())["total"] == 1
    finally:
        await page.close()


async def test_a_port_that_is_taken_is_named(browser: Browser, notes: list[str]) -> None:
    port = int(browser.host.rpartition(":")[2])
    second = PageServer("aegis", OneNode(), notes.append)
    try:
        with pytest.raises(CannotListenError, match=f"port {port} of loopback: .*--port"):
            await second.start(port)
    finally:
        await second.close()


async def test_a_page_says_what_is_stale_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until: Any, notes: list[str]
) -> None:
    """The identity is revoked while the page is open, and then the last node dies."""
    monkeypatch.setattr(watching, "INTERVAL", 0.05)
    monkeypatch.setattr(watching, "STALE", 0.5)
    monkeypatch.setattr("aegis_cli._view.page.STALE", 0.5)
    ca = CertificateAuthority.create(tmp_path, key_type=KeyType.P256)
    ca.issue("a", key_type=KeyType.P256)
    node = Node("a", address="127.0.0.1:0", cert_dir=tmp_path)
    await node.start()
    tls = ca.issue("ops", key_type=KeyType.P256, client_only=True)
    page = PageServer(
        "aegis", MeshSource(MeshPlace(node.address, lambda: tls, "aegis")), notes.append
    )
    browser = Browser(await page.start(0))
    try:
        await browser.enter()
        assert (await browser.state())["stale_since"] is None
        ca.revoke("ops")
        refused = "a did not tell its counts: "
        state = await browser.state_when(lambda state: refused in str(state["problems"]))
        assert [one["id"] for one in state["nodes"]] == ["a"], "what was known stays"
        await node._parts.stop(0, leave=False)
        state = await browser.state_when(lambda state: (state["stale_for"] or 0) >= 2)
        assert [one["id"] for one in state["nodes"]] == ["a"]
    finally:
        await page.close()
        await node.stop(grace=0)
