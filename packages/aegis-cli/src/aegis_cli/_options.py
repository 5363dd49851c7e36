"""What all options have in common: an environment variable, named in the help."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def option(name: str, envvar: str, text: str, **attributes: Any) -> Callable[[F], F]:
    """An option with its environment variable."""
    return click.option(
        name, envvar=envvar, show_envvar=True, show_default=True, help=text, **attributes
    )


def examples(*lines: str, notes: str = "") -> str:
    """An epilog of examples that click does not wrap, and of notes that it does."""
    shown = "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])
    return f"{shown}\n\n{notes}" if notes else shown


json_flag = option("--json", "AEGIS_JSON", "Print JSON for machines.", is_flag=True)
mesh_name = option(
    "--mesh",
    "AEGIS_MESH",
    "The mesh's name; nodes of another one are refused.",
    default="aegis",
    metavar="NAME",
)


def cert_dir(text: str) -> Callable[[F], F]:
    """The certificate directory, with what it is for."""
    return option("--cert-dir", "AEGIS_CERT_DIR", text, default="./certs", metavar="DIR")
