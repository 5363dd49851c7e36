"""Runs the code of the pages, each page in its own directory.

A comment on the line above a fenced block says how to test it:

    <!-- test: file NAME -->     save the block as this file
    <!-- test: run -->           run it: python as a script, a console block command by command
    <!-- test: background -->    start the command of a console block; go on after its output

In a console block, lines that begin with `$ ` are commands. The other lines are output that the
command must print, where `...` matches anything. Ports of 127.0.0.1 are replaced by free ones. A
page with a comment `<!-- soak: REASON -->` is slow and runs with the long tests.
"""

import os
import queue
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    page
    for pattern in ("README.md", "packages/*/README.md", "docs/**/*.md")
    for page in ROOT.glob(pattern)
    if "_build" not in page.parts
)
MARK = re.compile(r"^<!-- test\b", re.MULTILINE)
BLOCK = re.compile(
    r"^<!-- test: (?P<what>run|background|file (?P<name>[\w./-]+)) -->\n"
    r"```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
SECONDS = 60

# A key of RSA-4096 takes a second, and only the README, the first page of all, makes one here.
QUICK_KEYS = """
from aegis_certs import KeyType
from aegis_certs._x509 import keys
keys._RSA_BITS[KeyType.RSA_4096] = 2048
"""


SOAK = re.compile(r"^<!-- soak\b", re.MULTILINE)


def marked_pages():
    for page in PAGES:
        text = page.read_text()
        if MARK.search(text):
            marks = [pytest.mark.soak, pytest.mark.timeout(600)] if SOAK.search(text) else []
            yield pytest.param(page, marks=marks, id=str(page.relative_to(ROOT)))


def with_free_ports(text):
    """Replaces each loopback port by a free one.

    The free ports are below the range that systems assign, so no other test gets one by chance.
    """
    with ExitStack() as sockets:
        for port in sorted(set(re.findall(r"127\.0\.0\.1:([1-9]\d+)", text))):
            free = sockets.enter_context(free_socket()).getsockname()[1]
            text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{free}")
    return text


def free_socket():
    while True:
        try:
            return socket.create_server(("127.0.0.1", random.randrange(20_000, 32_000)))
        except OSError:
            continue


def commands(text):
    """Yields the commands of a console block, each with the lines that it must print."""
    for part in re.split(r"^\$ ", text.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
        command, *output = part.splitlines()
        yield command, [o for o in output if o.strip()]


def missing(expected, output):
    """Returns the expected lines that are not in the output."""
    flat = " ".join(output.split())
    return [
        line
        for line in expected
        if not re.search(re.escape(" ".join(line.split())).replace(r"\.\.\.", ".*?"), flat)
    ]


@pytest.fixture
def environment(tmp_path):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AEGIS_", "COV_"))}
    return kept | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "140",
        "NO_COLOR": "1",
    }


def run(command, directory, environment):
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


@contextmanager
def background(command, expected, directory, environment):
    """Runs a command until the block ends; enters after the expected output."""
    with subprocess.Popen(
        ["bash", "-c", f"exec {command}"],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        lines = queue.Queue()

        def read():
            for line in process.stdout:
                lines.put(line)
            lines.put(None)

        threading.Thread(target=read, daemon=True).start()
        try:
            output, deadline = "", time.monotonic() + SECONDS
            while missing(expected, output):
                try:
                    line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
                except queue.Empty:
                    line = None
                assert line is not None, f"{command}: {missing(expected, output)} not in\n{output}"
                output += line
            yield
            assert process.poll() is None, f"{command} ended too early:\n{output}"
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(SECONDS)
            finally:
                process.kill()


@pytest.mark.parametrize("page", list(marked_pages()))
def test_the_commands_of_a_page_work_as_written(page, tmp_path, environment):
    (tmp_path / "aegis").symlink_to(ROOT)  # the reader's clone, in the home directory
    if page != ROOT / "README.md":
        (tmp_path / "quick").mkdir()
        (tmp_path / "quick" / "sitecustomize.py").write_text(QUICK_KEYS)
        environment["PYTHONPATH"] = str(tmp_path / "quick")
    # Readers need `uv run`; in the tests the environment is already active.
    follow(re.sub(r"\buv run (?=aegis|python)", "", page.read_text()), tmp_path, environment)


@pytest.mark.timeout(600)
@pytest.mark.soak  # it builds the wheels and installs from the real index
def test_newcomer_gets_from_the_install_page_to_a_service_in_an_own_project(tmp_path, environment):
    (tmp_path / "aegis").symlink_to(ROOT)
    install = (ROOT / "docs/learn/install.md").read_text()
    for title in ("Build the wheels", "With uv"):
        section = re.search(rf"^## {title}\n.*?(?=^## )", install, re.MULTILINE | re.DOTALL)
        follow(section[0], tmp_path, environment)
    # Nothing but the project's own environment.
    own = {k: v for k, v in environment.items() if k not in {"VIRTUAL_ENV", "PYTHONPATH"}}
    for page in ("docs/learn/quickstart.md", "README.md"):
        follow((ROOT / page).read_text(), tmp_path / "shop", own)


def follow(text, directory, environment):
    """Does what the marks of a page say, in this directory."""
    assert len(MARK.findall(text)) == len(BLOCK.findall(text)), "a mark without a block below it"
    with ExitStack() as running:
        for block in BLOCK.finditer(with_free_ports(text)):
            if block["name"]:
                path = directory / block["name"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block["text"])
            elif block["language"] == "python":
                run([sys.executable, "-c", block["text"]], directory, environment)
            else:
                for command, expected in commands(block["text"]):
                    if block["what"] == "background":
                        running.enter_context(background(command, expected, directory, environment))
                    else:
                        output = run(["bash", "-c", command], directory, environment)
                        assert missing(expected, output) == [], f"{command} printed:\n{output}"
