"""The certificate commands: each reads options, calls the library and shows the result.

Modules that load slowly are imported inside the commands, so that `--help` is fast.
"""

from __future__ import annotations

import click

from aegis_certs.cli._command_group import CommandGroup, LazyCommands
from aegis_certs.cli._options import examples

__all__ = ["certs"]


@click.group(
    cls=CommandGroup,
    commands=LazyCommands(
        {
            "init": "aegis_certs.cli._create_commands:init",
            "issue": "aegis_certs.cli._create_commands:issue",
            "csr": "aegis_certs.cli._create_commands:csr",
            "sign": "aegis_certs.cli._create_commands:sign",
            "install": "aegis_certs.cli._create_commands:install",
            "token": "aegis_certs.cli._token_commands:token",
            "list": "aegis_certs.cli._inspect_commands:list_",
            "show": "aegis_certs.cli._inspect_commands:show",
            "verify": "aegis_certs.cli._inspect_commands:verify",
            "renew": "aegis_certs.cli._lifecycle_commands:renew",
            "revoke": "aegis_certs.cli._lifecycle_commands:revoke",
            "remove": "aegis_certs.cli._lifecycle_commands:remove",
            "rotate-ca": "aegis_certs.cli._lifecycle_commands:rotate_ca",
            "export": "aegis_certs.cli._export_commands:export",
            "trust": "aegis_certs.cli._export_commands:trust",
            "doctor": "aegis_certs.cli._inspect_commands:doctor",
        }
    ),
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
