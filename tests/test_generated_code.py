import subprocess
import sys


def test_the_checked_in_code_is_generated_from_the_current_proto_files(pytestconfig):
    script = pytestconfig.rootpath / "scripts" / "gen_protos.py"
    done = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
