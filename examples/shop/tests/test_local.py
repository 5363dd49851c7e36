"""The command `shop`: it opens, goes on without a process, closes in order, says what fails."""

import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from ports import free_ports
from shop import local

SECONDS = 60


class Output:
    """The lines of a process, each within a bound."""

    def __init__(self, process):
        self.process = process
        self.seen = []
        self._lines = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def until(self, text):
        """Returns the next line with this text; with None, when the output ends."""
        while (line := self._lines.get(timeout=SECONDS)) is not None:
            self.seen.append(line)
            if text is not None and text in line:
                return line
        assert text is None, "\n".join(self.seen)
        return None


@contextmanager
def shop(port):
    with subprocess.Popen(
        [sys.executable, "-m", "shop.local", "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield Output(process)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(SECONDS)


def test_the_shop_opens_goes_on_without_a_catalog_and_closes_in_order():
    port = free_ports(16)
    with shop(port) as output, httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
        output.until("The shop is open")
        order = {"sku": "tea", "card": "4111"}
        assert http.post("/orders", json=order, timeout=20).status_code == 201
        directory = re.search(r"AEGIS_CERT_DIR=(\S+)", output.until("AEGIS_CERT_DIR"))[1]
        os.kill(int(output.until("kill -9 ").split()[-1]), signal.SIGKILL)
        output.until("has ended by SIGKILL; the shop goes on without it")
        for _ in range(3):
            response = http.post("/orders", json=order, timeout=20)
            assert response.status_code == 201, response.text
        output.process.send_signal(signal.SIGINT)
        output.until(None)
        assert output.process.wait(SECONDS) == 0
    ends = [
        line.split()[0] for line in output.seen if re.search(r"Finished server| stopped$", line)
    ]
    assert ends == ["gateway", "orders-1", "payments-1", "catalog-2"]
    assert not any("OpenTelemetry" in line for line in output.seen)  # no collector was named
    assert not Path(directory).exists()


async def test_a_port_that_is_in_use_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(local, "NODES", {"catalog-1": "catalog"})
    port = free_ports(16)
    taken = socket.create_server(("127.0.0.1", port + 1))
    failure = pytest.raises(local.ShopError, match="catalog-1 has ended with exit code 1")
    with taken, failure:
        await local.run(port, tmp_path)
    assert f"127.0.0.1:{port + 1}" in capsys.readouterr().out
