"""`aegis ui` as a user starts and ends it."""

from __future__ import annotations

import json
import signal
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import pytest
from aegis_cli.cli import aegis as aegis_command
from click.testing import CliRunner


def get(address: str, jar: CookieJar) -> str:
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(jar)
    )
    with opener.open(address, timeout=20) as answer:
        return str(answer.read().decode())


def test_the_page_opens_in_a_browser_and_ends_by_sigterm(
    aegis: Any, quiet_mesh: str, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    opened = tmp_path / "opened"
    browser = tmp_path / "browser.py"
    browser.write_text(f"import sys; open({str(opened)!r}, 'w').write(sys.argv[1])")
    aegis.environment["BROWSER"] = f"{sys.executable} {browser} %s"
    ui = aegis.start("ui", "--node", quiet_mesh, "--json")
    address = json.loads(ui.stdout.until("address"))["address"]
    eventually(lambda: opened.exists() and opened.read_text() == address, "a browser opens it")
    jar = CookieJar()
    page, _, token = address.partition("?")
    assert page.startswith("http://127.0.0.1:")
    assert "<title>Aegis mesh</title>" in get(address, jar)
    state = json.loads(get(f"{page}state", jar))
    assert [one["id"] for one in state["nodes"]] == ["orders-1", "seed"]
    with pytest.raises(urllib.error.HTTPError, match="403"):
        get(address, CookieJar())
    ui.signal(signal.SIGTERM)
    assert ui.wait() == 0
    told = ui.stderr.rest()
    assert "The address was opened once more" in told
    assert token not in told


def test_a_taken_port_is_one_sentence_and_ctrl_c_ends_the_page(aegis: Any, quiet_mesh: str) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = str(holder.getsockname()[1])
        done = aegis.run("ui", "--node", quiet_mesh, "--port", port, "--no-open")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"cannot listen at port {port} of loopback" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    ui = aegis.start("ui", "--node", quiet_mesh, "--port", port, "--no-open")
    ui.stdout.until("The mesh is at")
    assert ui.stdout.until("http").startswith(f"http://127.0.0.1:{port}/?token=")
    ui.signal(signal.SIGINT)
    assert ui.wait() == 0


def test_a_mesh_that_cannot_be_read_has_no_page(certs: Path) -> None:
    runner = CliRunner(env={"AEGIS_CERT_DIR": str(certs)})
    done = runner.invoke(aegis_command, ["ui", "--node", "127.0.0.1:1", "--no-open"])
    assert done.exit_code == 1
    assert "127.0.0.1:1" in done.output
    assert "The mesh is at" not in done.output
    assert runner.invoke(aegis_command, ["ui"]).exit_code == 2
