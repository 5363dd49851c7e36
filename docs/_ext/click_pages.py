"""Generates the reference of a click command in a page, so that it matches the command.

A line `<!-- click: module:attribute program -->` is replaced by one section for each command.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator

import click
from sphinx.application import Sphinx

_MARKER = re.compile(
    r"^<!-- click: (?P<module>[\w.]+):(?P<name>\w+) (?P<program>[\w-]+) -->$", re.MULTILINE
)


def setup(app: Sphinx) -> dict[str, bool]:
    """Expands the markers when Sphinx reads a page."""
    app.connect("source-read", _expand)
    return {"parallel_read_safe": True}


def _expand(_app: Sphinx, _page: str, source: list[str]) -> None:
    source[0] = _MARKER.sub(_replacement, source[0])


def _replacement(match: re.Match[str]) -> str:
    command = getattr(importlib.import_module(match["module"]), match["name"])
    return "\n".join(_sections(command, click.Context(command, info_name=match["program"])))


def _sections(command: click.Command, context: click.Context) -> Iterator[str]:
    """Yields the lines of a command's section, then those of its subcommands."""
    path = context.command_path
    yield f"## {path}\n"
    yield _prose(command.help or command.short_help)
    yield f"\n```text\n{path} {' '.join(command.collect_usage_pieces(context))}\n```\n"
    options = [p for p in command.get_params(context) if isinstance(p, click.Option)]
    for option in options:
        if not option.hidden and not {"--help", "--version"}.intersection(option.opts):
            yield from _option(option, context)
    yield _prose(command.epilog) + "\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                yield from _sections(child, click.Context(child, info_name=name, parent=context))


def _prose(text: str | None) -> str:
    """Turns paragraphs that click must not wrap into blocks."""
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(text or ""))
    return "\n\n".join(
        f"```text\n{kept.lstrip()}\n```" if (kept := p.removeprefix("\b")) != p else p
        for p in paragraphs
    )


def _option(option: click.Option, context: click.Context) -> Iterator[str]:
    """Yields a definition: the names of the option, its help, default and variable."""
    names = " / ".join(
        ", ".join(f"`{name}`" for name in spelled)
        for spelled in (option.opts, option.secondary_opts)
        if spelled
    )
    if not option.is_flag and not option.count:
        names += f" *{option.make_metavar(context)}*"
    facts = ["required"] if option.required else []
    if isinstance(option.default, str | int | float) and not option.is_flag:
        facts.append(f"default `{option.default}`")
    if variable := _variable(option, context):
        facts.append(f"variable `{variable}`")
    if option.multiple:
        facts.append("may be given several times")
    notes = f" ({'; '.join(facts)})" if facts else ""
    yield f"{names}\n: {' '.join((option.help or '').split())}{notes}\n"


def _variable(option: click.Option, context: click.Context) -> str | None:
    if option.envvar:
        return option.envvar if isinstance(option.envvar, str) else option.envvar[0]
    if option.allow_from_autoenv and context.auto_envvar_prefix and option.name:
        return f"{context.auto_envvar_prefix}_{option.name.upper()}"
    return None
