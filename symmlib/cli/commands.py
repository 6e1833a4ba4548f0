"""All commands, in the order of `symmlib --help`. A new one: a function that adds it, in a module here, and a line."""

import argparse

from symmlib import __version__
from symmlib.cli import accuracy, allreduce, numerics, reports, routes, serving, suite

COMMANDS = (
    suite.add_doctor,
    suite.add_run,
    allreduce.add,
    numerics.add,
    serving.add,
    accuracy.add,
    routes.add,
    reports.add_report,
    reports.add_publish,
    suite.add_lab,
)


def parser() -> argparse.ArgumentParser:
    """What understands the whole command line; its result's `call` does what was asked, and gives the exit status."""
    parser = argparse.ArgumentParser(
        prog="symmlib",
        description="Which all-reduce to use at which size on this node, what that does to vLLM, and a report of both.",
    )
    parser.add_argument("--version", action="version", version=f"symmlib {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in COMMANDS:
        add(commands)
    return parser
