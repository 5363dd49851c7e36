"""`aegis completion`: completion of commands and options by a shell."""

from __future__ import annotations

import click
from aegis_certs.cli import examples

VARIABLE = "_AEGIS_COMPLETE"
"""Where click finds which shell asks."""


@click.command(
    epilog=examples(
        "aegis completion bash > ~/.local/share/bash-completion/completions/aegis",
        "aegis completion zsh > ~/.zfunc/_aegis",
        "aegis completion fish > ~/.config/fish/completions/aegis.fish",
        'eval "$(aegis completion bash)"',
        notes="For zsh, ~/.zshrc must have `fpath+=~/.zfunc` before `compinit`.",
    )
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes `aegis` in a shell.

    Write it to the file from which your shell loads completions, as in the examples, and start a
    new shell.
    """
    from click.shell_completion import get_completion_class

    root = click.get_current_context().find_root().command
    kind = get_completion_class(shell)
    if kind is None:  # the choices are those that click has
        raise click.UsageError(f"there is no completion for {shell}")
    made = kind(root, {}, "aegis", VARIABLE)
    click.echo(made.source_template % made.source_vars())
