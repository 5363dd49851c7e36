"""No tracked file names the machine on which it was written."""

import re
import subprocess

import pytest

# One letter of each is in brackets, so that this file does not find itself.
FORBIDDEN = {
    "an absolute path of somebody's machine": r"(?<![\w.])/(?:[w]ork|[r]oot)/",
    "the host of a package index": (
        r"\b(?:py[p]i\.(?:org|python)|python[h]osted\.|registry\.[n]pmjs|crates\.[i]o"
        r"|proxy\.[g]olang|deb\.[d]ebian)"
    ),
    # Without the epoch of our versions, an installer may take another project of this name.
    "an install of one of our names without its epoch": (
        r"\b(?:pip3?|pipx|uv(?: pip| tool)?|poetry|pdm) (?:install|add|download)\b"
        r"(?:\\\n|[^\n`])*?(?<![\w/-])[a]egis-(?:certs|discovery|core|cli)\b"
        r"(?!(?:\[[\w,-]*\])?\s*[>=]=\s*1!)"
    ),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_tracked_file_names(what, pytestconfig):
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=pytestconfig.rootpath, capture_output=True, check=True
    ).stdout.decode()
    pattern = re.compile(FORBIDDEN[what])
    found = []
    for name in filter(None, listing.split("\0")):
        path = pytestconfig.rootpath / name
        # A deleted file can still be in the index.
        if path.is_file() and (hit := pattern.search(path.read_text(errors="replace"))):
            found.append(f"{name}: {hit.group()}")
    assert found == []
