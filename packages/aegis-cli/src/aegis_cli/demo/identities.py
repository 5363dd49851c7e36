"""Creates the CA and the identities of the demo, in its own process: making keys is slow."""

from __future__ import annotations

import sys

from aegis_cli.demo import _child
from aegis_cli.demo._child import ParentPipe


def main(parent: ParentPipe) -> None:
    """Runs it; the arguments are a directory, the key types of CA and leaves, and node ids."""
    directory, ca_key_type, key_type, *names = sys.argv[1:]

    from aegis_certs import CertificateAuthority, KeyType

    authority = CertificateAuthority.create(directory, key_type=KeyType(ca_key_type))
    parent.report("made", what="the CA")
    for name in names:
        authority.issue(name, address="127.0.0.1", key_type=KeyType(key_type))
        parent.report("made", what=name)


if __name__ == "__main__":
    _child.run(main)
