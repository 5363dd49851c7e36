from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()
# The install is tried by the page that describes it.
USE = README.partition("## Smallest example")[2]


def test_every_command_and_snippet_of_the_readme_works(tmp_path: Path) -> None:
    scripts = sysconfig.get_path("scripts")
    # An RSA-4096 CA costs a second for each command; other tests use one.
    environment = {**os.environ, "AEGIS_CA_KEY_TYPE": "p256"}
    environment["PATH"] = f"{scripts}{os.pathsep}{environment['PATH']}"

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    commands = re.findall(r"^\$ (.+)$", USE, re.MULTILINE)
    assert len(commands) == 10
    for command in commands:
        run("bash", "-c", command)
    snippets = re.findall(r"```python\n(.+?)```", USE, re.DOTALL)
    assert len(snippets) == 4
    output = run(sys.executable, "-c", "\n".join(snippets))
    assert output.startswith("spiffe://aegis.internal/node/orders-1 ")
    assert output.endswith("visitor\n")


def test_the_exit_codes_of_the_readme_are_those_of_the_help() -> None:
    from aegis_certs.cli import certs

    codes = re.search(r"0 ok, .+?130\s+interrupted", README, re.DOTALL)
    assert codes
    assert " ".join(codes[0].split()) in " ".join((certs.epilog or "").split())
