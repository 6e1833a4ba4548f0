"""Arguments that several commands share, and the types of those that argparse has none for."""

import argparse
from pathlib import Path


def add_command(commands, call, text: str, name: str | None = None) -> argparse.ArgumentParser:
    """A subcommand of `commands` that calls `call`; `text` is its line of help, `name` its name if not `call`'s."""
    command = commands.add_parser(name or call.__name__, help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.set_defaults(call=call)
    return command


def add_reports_dir(command: argparse.ArgumentParser) -> None:
    command.add_argument("--reports-dir", type=path, metavar="DIR", help="where runs/ is (default: reports/)")


def add_out(command: argparse.ArgumentParser) -> None:
    command.add_argument("--out", type=path, metavar="DIR", help="where raw/ and results/ go (default: a new run)")


def add_within(command: argparse.ArgumentParser) -> None:
    command.add_argument("--within", type=float, metavar="MINUTES", help="start no server that would not end "
                         "in so many minutes; the same run, taken up again, goes on with the rest")  # fmt: skip


def add_blocks(command: argparse.ArgumentParser) -> None:
    command.add_argument("--blocks", type=int, metavar="N", help="serve N blocks instead of the profile's; in a run "
                         "that is taken up again, those that ran are kept and the rest are added")  # fmt: skip


def world_size(text: str) -> int | list[int]:
    """One number of ranks, or several by commas."""
    try:
        first, *others = map(int, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of ranks nor several, such as 2,4,8") from None
    return [first, *others] if others else first


def path(text: str) -> Path:
    """A path from the command line; an empty one, such as an unset variable leaves, would be the current directory."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty; give a path")
    return Path(text)
