from __future__ import annotations

import shutil
import subprocess

import pytest
from aegis_cli.cli import aegis


@pytest.mark.parametrize(
    ("words", "expected"),
    [("aegis mesh st", "plain,status"), ("aegis mesh status --wa", "plain,--watch")],
)
def test_bash_asks_for_what_may_follow(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: str, expected: str
) -> None:
    monkeypatch.setenv("_AEGIS_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    with pytest.raises(SystemExit):
        aegis([], prog_name="aegis")
    assert expected in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_that_the_shell_can_read(
    capsys: pytest.CaptureFixture[str], shell: str
) -> None:
    with pytest.raises(SystemExit) as end:
        aegis(["completion", shell], prog_name="aegis")
    script = capsys.readouterr().out
    assert end.value.code in (0, None)
    assert "_AEGIS_COMPLETE=" + shell + "_complete" in script
    if (found := shutil.which(shell)) is not None:
        subprocess.run([found, "-n"], input=script, text=True, check=True, timeout=30)


def test_an_unknown_shell_is_refused() -> None:
    with pytest.raises(SystemExit) as end:
        aegis(["completion", "csh"], prog_name="aegis")
    assert end.value.code == 2
