"""Click commands and groups that show a known error as one sentence and an exit code."""

from __future__ import annotations

import errno
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from importlib import import_module
from typing import Any, NoReturn

import click

from aegis_certs.cli._wrapping import no_wrap, wrap_text

NAME = "aegis-certs"
_MOUNTED = "certs"  # the name of the certificate commands within another tool
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
        errors.CAEndsError: 3,
        errors.ExpiredError: 4,
        errors.VerificationError: 5,
        errors.RevocationListError: 5,
        errors.RevokedError: 6,
        errors.NotFoundError: 7,
    }


class Command(click.Command):
    """A command whose examples show the name by which the user called it."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.epilog:
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_text(self.epilog.replace(f"{NAME} ", f"{prefix(ctx)} "))


class LazyCommands(MutableMapping[str, click.Command]):
    """The commands of a group; the module of each is imported when it is looked up.

    Args:
        homes: By the name of a command, its module and its name there: `module:name`.
    """

    def __init__(self, homes: Mapping[str, str]) -> None:
        self._found: dict[str, click.Command | str] = dict(homes)

    def __getitem__(self, name: str) -> click.Command:
        found = self._found[name]
        if isinstance(found, str):
            module, _, attribute = found.partition(":")
            found = self._found[name] = getattr(import_module(module), attribute)
        return found

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._found[name] = command

    def __delitem__(self, name: str) -> None:
        del self._found[name]

    def __contains__(self, name: object) -> bool:
        return name in self._found  # the inherited one would import the module

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


class CommandGroup(Command, click.Group):
    """A click group that shows a traceback to a user only if `--debug` asks for it.

    An error of a known class is shown as one sentence and ends with the exit code of that class.
    Any other error is a bug of this project, is shown as such, and ends with 1. Ctrl-C ends with
    130. In nested groups, each group knows the errors of its own commands.

    Args:
        exit_codes: Returns the exit codes by error class. It is called only after an error, so
            that it may import modules that load slowly.
    """

    command_class = Command

    def __init__(
        self, *args: Any, exit_codes: Callable[[], ExitCodes] = certs_exit_codes, **kwargs: Any
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
                callback=_store_debug,
                help="Show the traceback of an error.",
            )
        )

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the command, also where the shell has closed a standard stream (`>&-`)."""
        _open_closed_streams()
        return super().main(*args, **kwargs)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Reads the options; click itself would make 1 and `Aborted!` of a Ctrl-C meanwhile."""
        try:
            return super().make_context(*args, **kwargs)
        except KeyboardInterrupt as interrupt:
            raise click.exceptions.Exit(INTERRUPTED) from interrupt

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command, and turns its error into a message and an exit code."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort) as interrupt:
            raise click.exceptions.Exit(INTERRUPTED) from interrupt
        except click.UsageError as error:
            if type(error) is not click.UsageError:
                raise  # its class builds the message when click shows it
            raise click.UsageError(fitted(error.message, len("Error: ")), error.ctx) from error
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
            raise  # click handles these
        except Exception as error:  # noqa: BLE001 - no error may reach the user as a traceback
            if ctx.meta.get(_DEBUG):
                import traceback  # rarely needed, and slow to load

                traceback.print_exc()
            code = exit_code_of(error, self._exit_codes())
            if code is None and isinstance(error, OSError) and error.errno == errno.ENOSPC:
                what = error.filename or "the output"
                fail(f"no space is left to write {what}; free some, or write elsewhere")
            if code is None:
                fail(
                    f"an unexpected error occurred ({type(error).__name__}: {error}); "
                    f"run it again with AEGIS_DEBUG=1 to see where"
                )
            fail(str(error), code)


def exit_code_of(error: BaseException, codes: ExitCodes) -> int | None:
    """The exit code of an error: that of its nearest class; None if no class has one."""
    return next((codes[kind] for kind in type(error).__mro__ if kind in codes), None)


def fail(message: str, exit_code: int = 1) -> NoReturn:
    """Ends a command with one sentence on standard error and this exit code."""
    note(f"Error: {message}")
    raise click.exceptions.Exit(exit_code)


def prefix(ctx: click.Context) -> str:
    """How the user called the certificate commands: `aegis-certs` or `aegis certs`."""
    root = ctx.find_root()
    if root.command.name == _MOUNTED:
        return root.command_path
    mounted = isinstance(root.command, click.Group) and _MOUNTED in root.command.commands
    return f"{root.command_path} {_MOUNTED}" if mounted else NAME


def command_line(ctx: click.Context, command: str) -> str:
    """A next command as the user can paste it, with the same `--dir` if one was given."""
    given = ctx.get_parameter_source("dir") is click.core.ParameterSource.COMMANDLINE
    option = f" --dir {shlex.quote(ctx.params['dir'])}" if given else ""
    return no_wrap(f"{prefix(ctx)} {command}{option}")


def with_prefix(text: str) -> str:
    """A text of the library that names its commands by the name that the user called."""
    ctx = click.get_current_context(silent=True)
    return text if ctx is None else text.replace(f"`{NAME} ", f"`{prefix(ctx)} ")


def note(text: str) -> None:
    """Writes a text to standard error: wrapped on a terminal, otherwise as one line."""
    click.echo(fitted(with_prefix(" ".join(text.split()))), err=True)


def fitted(text: str, indent: int = 0) -> str:
    """A text for standard error, wrapped between words if that is a terminal."""
    if not sys.stderr.isatty():
        return text
    import shutil  # loads slowly

    return wrap_text(text, shutil.get_terminal_size().columns, indent)


def _open_closed_streams() -> None:
    # Python has None for them, and the next file or socket would get the number of a closed one:
    # what native libraries write to standard error would then go into it.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - it stays open


def _store_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta[_DEBUG] = value or ctx.meta.get(_DEBUG, False)
