"""The edge between commands and people: known errors become one sentence and an exit code."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import click

from aegis_certs.cli._wrapping import flowed

NAME = "aegis-certs"
_MOUNTED = "certs"  # the name of these commands within a bigger tool's
_DEBUG = "aegis.debug"
INTERRUPTED = 130  # 128 + SIGINT, as shells count

ExitCodes = Mapping[type[BaseException], int]


def certs_exit_codes() -> ExitCodes:
    """The exit code of each error of this package; an error has that of its nearest class."""
    from aegis_certs import errors

    return {
        errors.CertsError: 1,
        errors.InvalidNodeIdError: 2,
        errors.InvalidRequestError: 2,
        errors.ExpiredError: 4,
        errors.VerificationError: 5,
        errors.RevocationListError: 5,
        errors.RevokedError: 6,
        errors.NotFoundError: 7,
    }


class CommandGroup(click.Group):
    """A click group from which no traceback reaches a user, unless `--debug` asks for it.

    An error of a known class is shown as its one sentence and ends with the exit code of that
    class. Anything else is a mistake of ours, is shown as such, and ends with 1. Ctrl-C ends
    with 130. Groups nest; each knows the errors of its own commands.

    Args:
        exit_codes: Gives the exit codes by error class. It is called when something failed and
            not before, so that it may import what is slow to load.
    """

    def __init__(
        self,
        *args: Any,
        exit_codes: Callable[[], ExitCodes] = certs_exit_codes,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._exit_codes = exit_codes
        self.params.append(
            click.Option(
                ["--debug"],
                is_flag=True,
                envvar="AEGIS_DEBUG",
                show_envvar=True,
                expose_value=False,
                callback=_remember_debug,
                help="Show the traceback of an error.",
            )
        )

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command, and turns what it raises into a message and an exit code."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort) as interrupt:
            raise click.exceptions.Exit(INTERRUPTED) from interrupt
        except click.UsageError as error:
            if type(error) is not click.UsageError:
                raise  # it builds its message when it is shown
            raise click.UsageError(fitted(error.message, len("Error: ")), error.ctx) from error
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
            raise  # click knows what to do
        except Exception as error:  # noqa: BLE001 - the edge: nothing may pass as a traceback
            if ctx.meta.get(_DEBUG):
                import traceback  # not needed by most, and slow to load

                traceback.print_exc()
            code = exit_code_of(error, self._exit_codes())
            if code is None:
                fail(
                    f"something unexpected went wrong ({type(error).__name__}: {error}); "
                    f"run it again with AEGIS_DEBUG=1 to see where"
                )
            fail(str(error), code)


def exit_code_of(error: BaseException, codes: ExitCodes) -> int | None:
    """The exit code of an error: that of its nearest class; None where none is known."""
    return next((codes[kind] for kind in type(error).__mro__ if kind in codes), None)


def fail(message: str, exit_code: int = 1) -> NoReturn:
    """Ends a command with one sentence on standard error and this exit code."""
    tell(f"Error: {message}")
    raise click.exceptions.Exit(exit_code)


def prefix(ctx: click.Context) -> str:
    """How the certificate commands are called here: `aegis-certs`, or `aegis certs`."""
    root = ctx.find_root()
    if root.command.name == _MOUNTED:
        return root.command_path
    mounted = isinstance(root.command, click.Group) and _MOUNTED in root.command.commands
    return f"{root.command_path} {_MOUNTED}" if mounted else NAME


def spelled(text: str) -> str:
    """A text of the library, with the commands that it names as the reader calls them."""
    ctx = click.get_current_context(silent=True)
    return text if ctx is None else text.replace(f"`{NAME} ", f"`{prefix(ctx)} ")


def tell(text: str) -> None:
    """Says something on standard error, in one line where that is no terminal."""
    click.echo(fitted(spelled(" ".join(text.split()))), err=True)


def fitted(text: str, indent: int = 0) -> str:
    """A text for standard error: in lines that end between words where that is a terminal."""
    if not sys.stderr.isatty():
        return text
    return flowed(text, shutil.get_terminal_size().columns, indent)


def _remember_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta[_DEBUG] = value or ctx.meta.get(_DEBUG, False)
