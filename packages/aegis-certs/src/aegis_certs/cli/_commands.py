"""The certificate commands: each reads options, calls the library and shows the result.

Modules that load slowly are imported inside the commands, so that `--help` is fast.
"""

from __future__ import annotations

import click

from aegis_certs.cli._command_group import CommandGroup
from aegis_certs.cli._create_commands import csr, init, install, issue, sign
from aegis_certs.cli._export_commands import export, trust
from aegis_certs.cli._inspect_commands import doctor, list_, show, verify
from aegis_certs.cli._lifecycle_commands import remove, renew, revoke, rotate_ca
from aegis_certs.cli._options import examples
from aegis_certs.cli._token_commands import token

__all__ = ["certs"]


@click.group(
    cls=CommandGroup,
    epilog=examples(
        "aegis-certs init",
        "aegis-certs issue orders-1",
        "aegis-certs list",
        notes="\b\nExit codes: 0 ok, 1 anything else, 2 usage, 3 expiring, 4 expired,\n"
        "  5 untrusted, 6 revoked, 7 not found, 130 interrupted.",
    ),
)
@click.version_option(package_name="aegis-certs", message="%(package)s %(version)s")
def certs() -> None:
    """A CA for your team, and the certificates of your nodes."""


for command in (
    init,
    issue,
    csr,
    sign,
    install,
    token,
    list_,
    show,
    verify,
    renew,
    revoke,
    remove,
    rotate_ca,
    export,
    trust,
    doctor,
):
    certs.add_command(command)
