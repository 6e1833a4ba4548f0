"""The command `symmlib`: every subcommand is a thin call of the room that does the work.

A module here holds a group of commands: how each is asked for, and what it calls; `commands` lists them all. What does
the work is imported only where a command runs, so that `symmlib --help` answers at once.

Errors that a person can act on are one line and an exit status: 2 for a request that is wrong, 1 for one that failed.
"""

import contextlib
import os
import signal
import sys

from symmlib.cli.commands import parser
from symmlib.errors import SymmlibError

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv` (by default this process's) and return its exit status."""
    _open_standard_streams()
    # SIGTERM and a closed terminal then unwind like Ctrl-C: every `with` and `finally` ends what it started. Under
    # nohup the closed terminal is no reason to end.
    received: list[int] = []

    def unwind(number, _):
        received.append(number)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, unwind)
    try:
        return _answer(argv)
    except BaseException:
        if not received:
            raise
        # Whatever it became on its way: a module that it interrupts while it loads may turn it into an ImportError.
        with contextlib.suppress(OSError):
            print("symmlib: interrupted", file=sys.stderr)
        return 128 + received[0]


def _answer(argv: list[str] | None) -> int:
    arguments = parser().parse_args(argv)
    try:
        status = arguments.call(arguments) or 0
        sys.stdout.flush()  # here, where an error of it can still be told
        return status
    except SymmlibError as error:
        print(f"symmlib: {error}", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        _discard_stdout()
        return 141
    except OSError as error:
        if error.filename is not None:
            raise
        print(f"symmlib: {error.strerror}: what was to be printed, or a file, could not be written", file=sys.stderr)
        _discard_stdout()
        return 1


def _open_standard_streams() -> None:
    """Without a descriptor of 0 to 2, the next file opened would take its place, and be written into by a print."""
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(opened, True)
    os.close(opened)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for as long as the process lives


def _discard_stdout() -> None:
    """Let Python's own flush at exit go nowhere: it would fail again, with a message that nobody can act on."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
