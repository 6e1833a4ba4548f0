"""`symmlib report`, `report compare` and `publish`: pages from files."""

from symmlib.cli.options import add_command, add_reports_dir, path
from symmlib.cli.output import short
from symmlib.errors import UsageError

COMPARE = "compare"  # in the place of a run's directory; a directory of that name is ./compare


def add_report(commands) -> None:
    command = add_command(commands, report, "make a run's report anew from its files, or lay several runs side by side")
    command.usage = f"{command.prog} RUN_DIR\n       {command.prog} {COMPARE} RUN_DIR RUN_DIR [...] [--out FILE]"
    command.add_argument("run_dirs", type=path, nargs="+", metavar="RUN_DIR", help=f"a run; after the word {COMPARE} "
                         "two or more, the first of which the others' ratios are to")  # fmt: skip
    command.add_argument("--out", type=path, metavar="FILE", help="the page of a comparison (default: "
                         "compare-<ids>.html beside runs/)")  # fmt: skip


def add_publish(commands) -> None:
    command = add_command(commands, publish, "copy all reports to a directory that a web server can serve")
    command.add_argument("target", type=path, metavar="DIR")
    add_reports_dir(command)


def report(arguments) -> int:
    from symmlib import suite
    from symmlib.report import compare
    from symmlib.runs import Run

    first, *others = arguments.run_dirs
    if str(first) == COMPARE:
        print(f"Comparison: {short(compare(others, arguments.out))}")
        return 0
    if others:
        raise UsageError(
            f"report makes the page of one run; for {len(others) + 1} side by side: symmlib report {COMPARE}."
        )
    if arguments.out:
        raise UsageError(f"--out is for report {COMPARE}: a run's page stands in the run, as index.html.")
    print(f"Report: {short(suite.report(Run.open(first)))}")
    return 0


def publish(arguments) -> int:
    from symmlib.report import publish
    from symmlib.runs import default_reports_dir

    index = publish(arguments.reports_dir or default_reports_dir(), arguments.target)
    print(f"Published: {short(index)}")
    return 0
