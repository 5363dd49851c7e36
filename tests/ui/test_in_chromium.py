"""The page in a real browser: live, by keyboard, at phone width, and whatever peers are called."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aegis_cli._mesh.connecting import MeshPlace
from aegis_cli._ui.page_server import PageServer
from aegis_cli._ui.watching import MeshSource, Source
from aegis_cli._view.model import View
from aegis_discovery import NodeStatus, ServiceInfo

from tests.mesh.process import NodeProcess

from .chromium import PROGRAM, Chromium
from .simulated import SimulatedSource

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(PROGRAM is None, reason="needs Debian's chromium"),
]

EVIL = (
    "<script>document.title='evil'</script>",
    "<img src=x onerror=\"document.title='evil'\">",
    "</script><svg onload=\"document.title='evil'\">",
    '"]; evil [label="\\',
    "\x1b]0;evil\x07\x1b[2J",
    "javascript:document.title='evil'",
    "\u202egnp.exe",
)

IN_PLACE = "[...document.querySelectorAll('.point')].map((p) => p.getAttribute('transform')).join()"
TITLES = "[...document.querySelectorAll('.point .title')].map((t) => t.textContent).join()"
SUBTITLES = "[...document.querySelectorAll('.point .sub')].map((t) => t.textContent).join()"
OVERLAPS = """(() => {
  const all = [...document.querySelectorAll('#labels g')].map((g) => g.getBoundingClientRect());
  return all.filter((a, n) => all.some((b, m) => m < n && a.left < b.right && b.left < a.right
    && a.top < b.bottom && b.top < a.bottom)).length;
})()"""
ACTIVE = "document.querySelectorAll('script, img, iframe, a, foreignObject, style').length"
HANDLERS = """[...document.querySelectorAll('body *')].filter((e) =>
  [...e.attributes].some((a) => /^on|^style$/.test(a.name))).length"""
OUTSIDE = "document.documentElement.scrollWidth > innerWidth"


@pytest.fixture
def spawn(identity: Any, cert_dir: Path, tmp_path: Path) -> Iterator[Callable[..., NodeProcess]]:
    """Starts the process of a node; kills all at the end."""
    started: list[NodeProcess] = []

    def start(node_id: str, *seeds: NodeProcess) -> NodeProcess:
        identity(node_id)
        options = {"cert_dir": str(cert_dir), "seed_peers": [seed.address for seed in seeds]}
        started.append(NodeProcess(node_id, tmp_path / f"{node_id}.log", **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[Chromium]:
    with Chromium(tmp_path) as browser:
        browser.size(1280, 800)
        yield browser
        assert browser.logged == []
        assert all(address.startswith("http://127.0.0.1:") for address in browser.requested)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """The nodes of a simulation write a line each about each other."""
    caplog.set_level(logging.CRITICAL, "aegis")


@asynccontextmanager
async def page(source: Source) -> AsyncIterator[str]:
    server = PageServer("aegis", source, lambda _: None)
    try:
        yield await server.start(0)
    finally:
        await server.close()


def in_all_forms(chromium: Chromium, holds: Callable[[], bool]) -> None:
    """Checks the page on a desktop and a phone, in light and dark; nothing is off the screen."""
    for width, height in ((390, 844), (1280, 800)):
        for dark in (True, False):
            chromium.size(width, height, dark=dark)
            chromium.until(f"innerWidth === {width}")
            assert holds()
            assert not chromium.run(OUTSIDE)


async def test_a_mesh_of_three_while_a_node_dies_and_comes_back(
    spawn: Callable[..., NodeProcess], identity: Any, chromium: Chromium
) -> None:
    seed = spawn("seed")
    spawn("a", seed)
    doomed = spawn("b", seed)
    assert await asyncio.to_thread(lambda: doomed.address)
    place = MeshPlace(seed.address, lambda: identity("ops"), "aegis")

    def drive(address: str) -> None:
        chromium.open(address)
        chromium.until("document.querySelectorAll('.point').length === 3")
        assert chromium.run("location.href") == address.partition("?")[0]
        assert chromium.run("document.cookie") == "", "scripts cannot read the cookie"
        chromium.until("document.getElementById('live').textContent.startsWith('live, ')")
        where = chromium.run(IN_PLACE)
        doomed.kill()
        chromium.until(f"{SUBTITLES}.includes('✕ failed')")
        assert "b is failed" in chromium.until("document.getElementById('problems').innerText")
        assert chromium.run(IN_PLACE) == where, "nothing jumps"
        in_all_forms(chromium, lambda: "✕ failed" in chromium.run(SUBTITLES))
        chromium.run("document.getElementById('tab-picture').focus()")
        chromium.press("ArrowRight", "ArrowRight", "ArrowRight")
        first = "document.querySelector('#nodes tbody tr')"
        assert chromium.until(f"{first}?.innerText").split()[0] == "b"
        spawn("b", seed)
        chromium.until("document.getElementById('problems').hidden")
        chromium.run("location.hash = '#picture'")
        in_all_forms(chromium, lambda: "failed" not in chromium.run(SUBTITLES))
        chromium.run("location.hash = '#events'")
        chromium.until("document.getElementById('events').innerText.includes('recovered')")
        seed.kill()
        chromium.until("/as [ab] sees it/.test(document.getElementById('live').textContent)")
        chromium.until("document.getElementById('problems').innerText.includes('seed is failed')")
        assert chromium.run("document.getElementById('stale').hidden")

    async with page(MeshSource(place)) as address:
        await asyncio.to_thread(drive, address)
    await asyncio.to_thread(
        chromium.until, "document.getElementById('stale').innerText.includes('does not answer')"
    )
    chromium.logged.clear()  # Chromium says that it could not connect


async def test_a_mesh_of_200_while_nodes_die_and_come_back(chromium: Chromium) -> None:
    source = SimulatedSource(["eu-west", "us-east"], 100, failing=["ledger"])
    dead = ("eu-west-009", "us-east-015")

    def drive(address: str) -> None:
        chromium.open(address)
        chromium.until("document.querySelectorAll('.edge.bad').length === 2")
        where = chromium.run(IN_PLACE)
        assert chromium.run("document.querySelectorAll('.point').length") == 20
        for node_id in dead:
            source.simulation.kill(node_id)
        chromium.until("document.querySelectorAll('.point .box.bad').length === 2")
        assert chromium.run(IN_PLACE) == where, "nothing jumps"
        assert chromium.run(OVERLAPS) == 0
        # By keyboard: into the picture, along it, into a folded point, and back.
        chromium.run("document.querySelector('.point[tabindex=\"0\"]').focus()")
        chromium.press("ArrowRight", "Enter")
        chromium.until("document.getElementById('find').value !== ''")
        chromium.until(f"/(eu-west|us-east)-\\d+/.test({TITLES})")
        chromium.press("Escape", "Escape")
        chromium.until("document.getElementById('find').value === ''")
        chromium.until("document.querySelectorAll('.point').length === 20")
        for width, height, dark in ((390, 844, True), (390, 844, False), (1280, 800, True)):
            chromium.size(width, height, dark=dark)
            chromium.until(f"document.getElementById('svg').clientWidth < {width}")
            assert not chromium.run(OUTSIDE), "nothing is cut off at the right"
            assert chromium.run(OVERLAPS) == 0
            paper = chromium.run(
                "getComputedStyle(document.querySelector('main > section')).backgroundColor"
            )
            assert (paper == "rgb(255, 255, 255)") is not dark
        for tab in ("services", "calls", "nodes", "events", "certs"):
            chromium.size(390, 844)
            chromium.run(f"location.hash = '#{tab}'")
            chromium.until(f"document.querySelectorAll('#{tab} tbody tr').length > 2")
            assert not chromium.run(OUTSIDE), tab
        for node_id in dead:
            source.simulation.restart(node_id)
        chromium.until("!document.getElementById('counts').innerText.includes('failed')")
        source.trouble = "no node answers"
        chromium.until("document.getElementById('stale').innerText.includes('no node answers')")

    async with page(source) as address:
        await asyncio.to_thread(drive, address)


class EvilSource(SimulatedSource):
    """Each text that a peer can choose is one that tries something."""

    async def read(self, last: View | None) -> View:
        view = await super().read(last)
        nodes = []
        for number, node in enumerate(view.nodes):
            evil = EVIL[number % len(EVIL)]
            info = replace(
                node.info, name=evil, region=evil, zone=evil, address=evil,
                services=(ServiceInfo(evil, evil),), status=NodeStatus.FAILED,
            )  # fmt: skip
            nodes.append(node._replace(info=info, by=EVIL))
        edges = [
            {
                **dict.fromkeys(("caller", "service", "method"), evil),
                "side": "client",
                "provider": view.nodes[0].id,
                "started": 3,
                "codes": {evil: 3},
                "seconds": evil,
            }
            for evil in EVIL
        ]
        events = [
            {"number": number, "at": evil, "kind": evil, "node_id": evil, "what": evil, "by": EVIL}
            for number, evil in enumerate(EVIL)
        ]
        told = {"edges": edges, "events": events, "started_at": EVIL[0]}
        problems = {view.nodes[-1].id: EVIL[1]}
        return view._replace(nodes=tuple(nodes), stats={view.source: told}, unanswered=problems)


async def test_no_name_of_a_peer_becomes_markup(chromium: Chromium) -> None:
    source = EvilSource(["eu"], len(EVIL))

    def drive(address: str) -> None:
        chromium.open(address)
        chromium.until(f"document.querySelectorAll('.point').length > {len(EVIL)}")
        before = chromium.run(
            "document.querySelectorAll('script, img, iframe, a, foreignObject, style').length"
        )
        for tab in ("picture", "services", "calls", "nodes", "events", "certs"):
            chromium.run(f"location.hash = '#{tab}'")
            chromium.until(f"!document.getElementById('{tab}').hidden")
            chromium.until(f"document.getElementById('{tab}').innerText.length > 20")
        assert "<script>" in chromium.run("document.getElementById('calls').textContent")
        chromium.run("document.querySelector('#calls button').click()")
        chromium.until("document.getElementById('find').value !== ''")
        now = chromium.run(
            "document.querySelectorAll('script, img, iframe, a, foreignObject, style').length"
        )
        assert now == before
        assert "evil" not in chromium.run("document.title")
        assert chromium.run(HANDLERS) == 0
        assert not chromium.run("/[\\x00-\\x08\\x0b-\\x1f\\u202e]/.test(document.body.textContent)")

    async with page(source) as address:
        await asyncio.to_thread(drive, address)
