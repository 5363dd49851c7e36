"""A real Chromium without a window, driven over its DevTools protocol through two pipes."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Self

BOUND = 40.0
"""Seconds after which a wait fails. A bound for a busy machine, not a measurement."""

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")

_OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # tests also run as root
    "--remote-debugging-pipe",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--hide-scrollbars",
)


class Chromium:
    """One tab of a Chromium of its own.

    Attributes:
        logged: What the page wrote to its console, exceptions and violations of its policy too.
        requested: The addresses that it asked for.
    """

    def __init__(self, folder: Path) -> None:
        commands, self._in = os.pipe()
        self._out, answers = os.pipe()
        # Chromium reads from the descriptor 3, and writes to 4.
        command = f'exec "$0" "$@" 3<&{commands} 4>&{answers}'
        assert PROGRAM, "there is no Chromium"
        profile = f"--user-data-dir={folder / 'profile'}"
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", command, PROGRAM, *_OPTIONS, profile, "about:blank"],
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(folder)},
        )
        os.close(commands)
        os.close(answers)
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        self.logged: list[str] = []
        self.requested: list[str] = []
        page = next(
            one for one in self.send("Target.getTargets")["targetInfos"] if one["type"] == "page"
        )
        found = self.send("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = found["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends a command, and returns its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._in, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + BOUND
        while True:
            answer = self._next(deadline)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer.get("method"), answer.get("params", {}))

    def _next(self, deadline: float) -> dict[str, Any]:
        os.set_blocking(self._out, False)
        while b"\0" not in self._rest:
            assert time.monotonic() < deadline, "Chromium does not answer"
            try:
                found = os.read(self._out, 1 << 20)
            except BlockingIOError:
                time.sleep(0.005)
                continue
            assert found, "Chromium has ended"
            self._rest += found
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def _note(self, method: str | None, parameters: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.logged.append(json.dumps(parameters["exceptionDetails"])[:2000])
        elif method == "Log.entryAdded":
            self.logged.append(parameters["entry"]["text"])
        elif method == "Runtime.consoleAPICalled":
            self.logged.append(json.dumps(parameters["args"])[:2000])
        elif method == "Network.requestWillBeSent":
            self.requested.append(parameters["request"]["url"])

    def open(self, address: str) -> None:
        self.send("Page.navigate", url=address)

    def size(self, width: int, height: int, *, dark: bool = False, scale: float = 1) -> None:
        """Sets the size of the window, and whether the user prefers dark pages."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def run(self, script: str) -> Any:
        """Returns the value of an expression in the page."""
        found = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script: str) -> Any:
        """Waits until an expression is true; returns its value."""
        deadline = time.monotonic() + BOUND
        while not (value := self.run(script)):
            if time.monotonic() > deadline:
                text = self.run("document.body.innerText")
                raise AssertionError(f"not true: {script}\n{self.logged}\n{text}")
            time.sleep(0.05)
        return value

    def press(self, *keys: str) -> None:
        """Presses keys, one after another, such as `Tab` and `ArrowDown`."""
        for key in keys:
            code = {"Tab": 9, "Enter": 13, "Escape": 27}.get(key, 0)
            text = {"text": "\r"} if key == "Enter" else {}
            for kind in ("keyDown", "keyUp"):
                self.send(
                    "Input.dispatchKeyEvent",
                    type=kind,
                    key=key,
                    code=key,
                    windowsVirtualKeyCode=code,
                    **(text if kind == "keyDown" else {}),
                )

    def picture(self, path: Path) -> None:
        """Writes what is in the window to a PNG file."""
        data = self.send("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))
