import subprocess
import sys

# In a process of its own: it configures logging, which would silence other tests' loggers.
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def test_packages_import_only_in_the_directions_that_the_contracts_allow(pytestconfig):
    done = subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache", "--no-logo"],
        cwd=pytestconfig.rootpath,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
