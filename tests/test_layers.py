import subprocess
import sys

# It runs in its own process, since it configures logging and would silence other tests' loggers.
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def test_all_import_contracts_are_kept(pytestconfig):
    done = subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache", "--no-logo"],
        cwd=pytestconfig.rootpath,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
