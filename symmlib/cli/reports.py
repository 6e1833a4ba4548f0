"""`symmlib report` and `publish`: pages from files."""

from symmlib.cli.options import add_command, add_reports_dir, path
from symmlib.cli.output import short


def add_report(commands) -> None:
    command = add_command(commands, report, "make a run's report anew from its files")
    command.add_argument("run_dir", type=path, metavar="RUN_DIR")


def add_publish(commands) -> None:
    command = add_command(commands, publish, "copy all reports to a directory that a web server can serve")
    command.add_argument("target", type=path, metavar="DIR")
    add_reports_dir(command)


def report(arguments) -> int:
    from symmlib import suite
    from symmlib.runs import Run

    print(f"Report: {short(suite.report(Run.open(arguments.run_dir)))}")
    return 0


def publish(arguments) -> int:
    from symmlib.report import publish
    from symmlib.runs import default_reports_dir

    index = publish(arguments.reports_dir or default_reports_dir(), arguments.target)
    print(f"Published: {short(index)}")
    return 0
