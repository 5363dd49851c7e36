import subprocess
import sys


def test_checked_in_code_is_what_the_proto_files_generate(pytestconfig):
    script = pytestconfig.rootpath / "scripts" / "gen_protos.py"
    done = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
