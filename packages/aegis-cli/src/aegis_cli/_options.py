"""The options that the commands on a mesh share."""

from __future__ import annotations

from aegis_certs.cli import option

mesh_name = option(
    "--mesh",
    "AEGIS_MESH",
    "The name of the mesh; nodes of another mesh are refused.",
    default="aegis",
    metavar="NAME",
)
identity_name = option(
    "--identity",
    "AEGIS_IDENTITY",
    "Connect with this identity of the certificate directory; by default with a client-only "
    "identity, valid for an hour, that the CA's key makes. It is kept in the directory, in "
    ".aegis-cli.pem, and used again for half an hour.",
    metavar="NAME",
)
