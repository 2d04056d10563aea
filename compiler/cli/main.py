"""The command `ingot`: commands imported when used, every error as one message and an exit code."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn, cast

import click

from ingot.errors import IngotError
from ingot.version import __version__

COMMANDS = {
    "compile": "Turn a PyTorch model into one verified engine file.",
    "run": "Run an engine file on arrays, drawn inputs or text.",
    "check": "Tell whether this machine can run an engine file.",
    "inspect": "Show what is in an engine file.",
    "verify": "Measure an engine file's accuracy again, here.",
    "env": "Show what is installed and what each target would need.",
}
"""Each name is a module of this folder that offers `command`."""

INTERRUPTED = 130
TERMINATED = 143


class Commands(click.Group):
    """Imports a command's module when the command is used: `ingot check` must not wait for torch."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return cast(click.Command, import_module(f"ingot.cli.{name}").command)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """As click's, with our errors shown as messages: exit 2 for usage, 1 otherwise, the traceback with
        INGOT_DEBUG=1."""
        run: Callable[..., Any] = super().main
        if not standalone_mode:
            return run(*args, standalone_mode=False, **extra)
        try:
            code = run(*args, standalone_mode=False, **extra)
        except IngotError as error:
            _show(f"Error: {error}")
            code = error.exit_code
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except OSError as error:
            if not _is_of_printing(error):
                raise
            _drop_stdout()
            _show(f"Error: the output cannot be written ({os.strerror(error.errno or 0)})")
            code = 1
        except (click.Abort, KeyboardInterrupt):
            code = _interrupted()
        sys.exit(code if isinstance(code, int) else 0)


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="INGOT_DEBUG=1 shows tracebacks; INGOT_NUM_THREADS=n sets the threads of a run.",
)
@click.version_option(__version__, prog_name="ingot", message="%(prog)s %(version)s")
def ingot() -> None:
    """Turn a PyTorch model into one verified engine file that production loads without PyTorch."""


def main() -> NoReturn:
    """The console script."""
    signal.signal(signal.SIGTERM, _on_signal)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _on_signal)
    ingot(prog_name="ingot")
    raise AssertionError("click exits")


class _Signalled(KeyboardInterrupt):
    """SIGTERM or ctrl-C: cleaned up after alike, each with its own exit code.

    Not KeyboardInterrupt itself: where that ends the `exec` of a text (an import that makes dataclasses), `python -m`
    kills its own process at exit, whatever was caught and whatever code was given.
    """

    def __init__(self, number: int) -> None:
        self.number = number


def _on_signal(number: int, frame: FrameType | None) -> None:
    # A second SIGTERM while cleaning up would leave half of it undone; a second ctrl-C is meant.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Signalled(number)


def _is_of_printing(error: OSError) -> bool:
    """Whether `click.echo` raised it: any other OSError that comes this far is a fault of ours, and keeps its trace."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code is click.echo.__code__


def _drop_stdout() -> None:
    """What still waits to be printed goes nowhere; else Python tries again at exit, and complains."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _interrupted() -> int:
    error: BaseException | None = sys.exc_info()[1]
    while error is not None:
        if isinstance(error, _Signalled) and error.number == signal.SIGTERM:
            _show("Terminated; no file is left half-written")
            return TERMINATED
        error = error.__cause__ or error.__context__
    _show("Interrupted; no file is left half-written")
    return INTERRUPTED


def _show(message: str) -> None:
    if os.environ.get("INGOT_DEBUG") == "1":
        traceback.print_exc()
    # A message may quote a stranger's file. Imported here, as most commands have none to show.
    from ingot.runtime.report import printable

    click.echo("\n".join(map(printable, message.split("\n"))), err=True)


if __name__ == "__main__":
    main()
