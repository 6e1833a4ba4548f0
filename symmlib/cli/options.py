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


def add_model_and_tp(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", type=model, metavar="NAME", help="instead of the profile's models: a hub id, a "
                         "directory, or a Llama with random weights (tiny, dummy-8b, dummy-70b)")  # fmt: skip
    command.add_argument("--tp", type=tp_sizes, metavar="N,...", help="instead of the profile's tensor-parallel sizes")


def add_qps(command: argparse.ArgumentParser) -> None:
    command.add_argument("--qps", type=rates, metavar="R,...", help="instead of the profile's requests per second")


def model(text: str) -> str:
    """A model's name; of a directory its whole path, as notebooks run in another one."""
    return str(path(text).resolve()) if Path(text).is_dir() else text


def tp_sizes(text: str) -> list[int]:
    """Tensor-parallel sizes by commas."""
    return _by_commas(text, int, "a tensor-parallel size nor several, such as 4,8")


def rates(text: str) -> list[float]:
    """Requests per second by commas; whole ones as whole numbers, as profiles write them."""
    found = _by_commas(text, float, "a rate in requests per second nor several, such as 0.5,1,5")
    return [int(rate) if rate.is_integer() else rate for rate in found]


def world_size(text: str) -> int | list[int]:
    """One number of ranks, or several by commas."""
    found = _by_commas(text, int, "a number of ranks nor several, such as 2,4,8")
    return found if len(found) > 1 else found[0]


def _by_commas(text: str, kind: type, what: str) -> list:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither {what}") from None


def path(text: str) -> Path:
    """A path from the command line; an empty one, such as an unset variable leaves, would be the current directory."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty; give a path")
    return Path(text)
