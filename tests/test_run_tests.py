"""CI runs failed tests once more: real faults must still fail and flaky tests must be reported."""

import os
import subprocess
import sys

SCRIPT = "scripts/run_tests.py"


def run_script(pytestconfig, flaky_log, *arguments):
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        cwd=pytestconfig.rootpath,
        # Plugins take longer to load than these tests to run.
        env=os.environ | {"AEGIS_FLAKY": str(flaky_log), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def run_tests(pytestconfig, tmp_path, source):
    (tmp_path / "test_it.py").write_text(source)
    command = (sys.executable, "-m", "pytest", "-q", "-p", "xdist.plugin", "-c", os.devnull)
    done = run_script(pytestconfig, tmp_path / "flaky", *command, str(tmp_path))
    return done, run_script(pytestconfig, tmp_path / "flaky", "--summary").stdout


def test_a_test_that_passes_the_second_time_is_reported_and_counted(pytestconfig, tmp_path):
    done, summary = run_tests(
        pytestconfig,
        tmp_path,
        "from pathlib import Path\n"
        "def test_first(): pass\n"
        "def test_second():\n"
        "    mark = Path(__file__).with_name('ran')\n"
        "    ran, _ = mark.exists(), mark.touch()\n"
        "    assert ran\n",
    )
    assert done.returncode == 0, done.stdout
    assert "FLAKY" in done.stdout
    assert "test_it.py::test_second" in summary
    assert summary.startswith("1 flaky\n")


def test_a_test_that_fails_twice_fails_the_run(pytestconfig, tmp_path):
    done, summary = run_tests(pytestconfig, tmp_path, "def test_it(): assert False\n")
    assert done.returncode == 1
    assert done.stdout.count("1 failed") == 2
    assert summary == "0 flaky\n"


def test_a_run_that_cannot_start_fails(pytestconfig, tmp_path):
    done, _ = run_tests(pytestconfig, tmp_path, "import no_such_module\n")
    assert done.returncode == 1


def test_a_run_without_failures_runs_once(pytestconfig, tmp_path):
    done, summary = run_tests(pytestconfig, tmp_path, "def test_it(): pass\n")
    assert done.returncode == 0
    assert done.stdout.count("1 passed") == 1
    assert summary == "0 flaky\n"
