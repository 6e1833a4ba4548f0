"""The command `symmlib`: every subcommand is a thin call of the room that does the work.

Errors that a person can act on are one line and an exit status: 2 for a request that is wrong, 1 for one that failed.
"""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from symmlib import __version__, progress
from symmlib.errors import SymmlibError, UsageError


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv` (by default this process's) and return its exit status."""
    # SIGTERM and a closed terminal then unwind like Ctrl-C: every `with` and `finally` ends what it started.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    arguments = _parser().parse_args(argv)
    try:
        return arguments.call(arguments) or 0
    except SymmlibError as error:
        print(f"symmlib: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("symmlib: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def doctor(arguments) -> int:
    from symmlib import doctor

    checks = doctor.examine(arguments.reports_dir)
    print(doctor.table(checks))
    name = doctor.default_profile()
    if doctor.can_run(checks):
        print(f"\nThis machine can run the profile {name}: make report")
        return 0
    missing = [check.name for check in checks if check.needed and not check.ok]
    print(f"\nThis machine cannot run the profile {name} yet. Missing: {', '.join(missing)}.")
    return 1


def run(arguments) -> int:
    from symmlib import doctor, profiles, suite
    from symmlib.runs import Run

    resume = Run.open(arguments.resume) if arguments.resume else None
    name = arguments.profile or (resume.path / "params.yaml" if resume else doctor.default_profile())
    profile = profiles.load(name)
    suite.validate(profile)
    finished = suite.run_profile(profile, reports_dir=arguments.reports_dir, resume=resume)
    page = suite.report(finished)
    manifest = finished.manifest
    failed = {name: step for name, step in manifest["steps"].items() if step["status"] != "ok"}
    print()
    for sentence in suite.verdicts(finished):
        print(sentence)
    for name, step in failed.items():
        print(f"FAILED {name}: {step.get('reason', 'it was not finished')}")
    if failed:
        print(f"Try again what failed: symmlib run --resume {_short(finished.path)}")
    elif manifest["status"] == "invalid":
        print(f"INVALID: {manifest['reason']}")
    print(f"\nReport: {_short(page)} ({progress.duration(progress.elapsed_s())})")
    return 1 if failed else 0


def allreduce(arguments) -> int:
    from symmlib.allreduce import AllReducePlan, measure
    from symmlib.routing.derive import derive

    plan = AllReducePlan(
        world_size=arguments.world_size,
        backends=arguments.backends,
        sizes=arguments.sizes,
        dtype=arguments.dtype,
        mode=arguments.mode,
        launches=arguments.launches,
        device=arguments.device,
    )
    with _output(arguments.out, "allreduce") as out:
        summary = measure(plan, out)
        derive(summary, source=f"symmlib allreduce --out {_short(out)}").save(out / "routing.toml")
    columns = ["backend", "bytes", "median_us", "p99_us", "algbw_gbps", "busbw_gbps", "wrong", "status", "reason"]
    print(summary[columns].to_string(index=False, na_rep="-", float_format="{:.2f}".format))
    print(f"\nResults: {_short(out / 'results')}\nRoutes: {_short(out / 'routing.toml')}")
    return 0


def serve(arguments) -> int:
    from symmlib import profiles
    from symmlib.errors import unknown
    from symmlib.serving import ServingExperiment, run_experiment

    profile = profiles.load(arguments.profile)
    if "04_serving" not in profile.parameters:
        raise unknown("notebook", "04_serving", profile.parameters)
    experiment = ServingExperiment(**profile.parameters["04_serving"])
    with _output(arguments.out, "serve") as out:
        comparison = run_experiment(experiment, out, arguments.routing_table)
    print(comparison.to_string(index=False, na_rep="-", float_format="{:.3f}".format))
    print(f"\nResults: {_short(out / 'results')}")
    return 0


def routes_show(arguments) -> int:
    from symmlib.routing import RoutingTable, show

    table = RoutingTable.load(arguments.table) if arguments.table else RoutingTable.builtin()
    wanted = {name: getattr(arguments, name) for name in ("device", "world_size", "dtype", "mode")}
    print(show(table, **wanted).drop(columns=["from_bytes", "to_bytes"]).to_string(index=False))
    return 0


def routes_derive(arguments) -> int:
    import pandas as pd

    from symmlib.routing.derive import derive
    from symmlib.runs import Run

    run = Run.open(arguments.run_dir)
    summary = run.results / "allreduce_summary.csv"
    if not summary.is_file():
        raise UsageError(f"{_short(run.path)} has no results/allreduce_summary.csv to derive routes from.")
    out = arguments.out or run.path / "routing.toml"
    derive(pd.read_csv(summary), source=f"run {run.id}").save(out)
    print(f"Routes: {_short(out)}")
    return 0


def report(arguments) -> int:
    from symmlib import suite
    from symmlib.runs import Run

    print(f"Report: {_short(suite.report(Run.open(arguments.run_dir)))}")
    return 0


def publish(arguments) -> int:
    from symmlib.report import publish
    from symmlib.runs import default_reports_dir

    index = publish(arguments.reports_dir or default_reports_dir(), arguments.target)
    print(f"Published: {_short(index)}")
    return 0


def lab(arguments) -> int:
    from symmlib import notebooks

    command = [sys.executable, "-m", "jupyterlab", str(notebooks.DIRECTORY), "--ServerApp.ip=127.0.0.1"]
    command += [f"--ServerApp.root_dir={notebooks.DIRECTORY}", *arguments.options]
    # In this process's place: Ctrl-C, and the question that Jupyter asks then, belong to it.
    os.execve(command[0], command, {**os.environ, "JUPYTER_PREFER_ENV_PATH": "1"})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="symmlib",
        description="Which all-reduce to use at which size on this node, what that does to vLLM, and a report of both.",
    )
    parser.add_argument("--version", action="version", version=f"symmlib {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    command = _command(commands, doctor, "what this machine can run, and why not what it can't")
    _reports_dir(command)

    command = _command(commands, run, "execute a profile's notebooks and make the report")
    command.add_argument("profile", nargs="?", metavar="PROFILE", help="a shipped profile, or a YAML file such as a "
                         "run's params.yaml; by default the one that suits this machine")  # fmt: skip
    command.add_argument("--resume", type=Path, metavar="RUN_DIR", help="go on with this run; skip what is done")
    _reports_dir(command)

    command = _command(commands, allreduce, "measure all-reduces in fresh torchrun launches")
    command.add_argument("--world-size", type=int, default=2, help="ranks (default 2)")
    command.add_argument("--backends", default="gloo,host/one_shot,host/two_shot,vllm/shm", help="names, by commas")
    command.add_argument("--sizes", default="1KiB:16MiB:x4", help="bytes per rank: 4KiB,64KiB or 1KiB:16MiB:x4")
    command.add_argument("--dtype", default="bfloat16", help="bfloat16, float16 or float32")
    command.add_argument("--mode", default="eager", help="eager, or graph on GPUs")
    command.add_argument("--device", default="", help="cpu or cuda (default: where the backends run)")
    command.add_argument("--launches", type=int, default=3, help="fresh torchruns (default 3)")
    _out(command)

    command = _command(commands, serve, "serve with vLLM under every arm of a profile, and compare")
    command.add_argument("--profile", default="cpu", help="the profile whose 04_serving section to run (default cpu)")
    command.add_argument("--routing-table", type=Path, metavar="FILE", help="what the arm `router` obeys")
    _out(command)

    routes = _command(commands, None, "routing tables", "routes").add_subparsers(metavar="COMMAND", required=True)
    command = _command(routes, routes_show, "what serves which size, and why", "show")
    command.add_argument("--table", type=Path, metavar="FILE", help="a routing table; by default the built-in ones")
    command.add_argument("--device", help="only this device, such as sm_100 or cpu")
    command.add_argument("--world-size", type=int, help="only this world size")
    command.add_argument("--dtype", help="only this dtype")
    command.add_argument("--mode", help="only this mode, eager or graph")
    command = _command(routes, routes_derive, "a routing table from a run's measurements", "derive")
    command.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    command.add_argument("--out", type=Path, metavar="FILE", help="by default the run's own routing.toml")

    command = _command(commands, report, "make a run's report anew from its files")
    command.add_argument("run_dir", type=Path, metavar="RUN_DIR")

    command = _command(commands, publish, "copy all reports to a directory that a web server can serve")
    command.add_argument("target", type=Path, metavar="DIR")
    _reports_dir(command)

    command = _command(commands, lab, "open JupyterLab on the notebooks, on 127.0.0.1 with its token")
    command.add_argument(
        "options", nargs="*", metavar="OPTION", help="for JupyterLab, after --, such as -- --no-browser"
    )
    return parser


def _command(commands, call, text: str, name: str | None = None) -> argparse.ArgumentParser:
    command = commands.add_parser(name or call.__name__, help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.set_defaults(call=call)
    return command


def _reports_dir(command: argparse.ArgumentParser) -> None:
    command.add_argument("--reports-dir", type=Path, metavar="DIR", help="where runs/ is (default: reports/)")


def _out(command: argparse.ArgumentParser) -> None:
    command.add_argument("--out", type=Path, metavar="DIR", help="where raw/ and results/ go (default: a new run)")


@contextlib.contextmanager
def _output(out: Path | None, name: str) -> Iterator[Path]:
    """`out`, tried now so that a place that cannot be written costs no measurement; else the directory of a new run."""
    from symmlib.profiles import Profile
    from symmlib.runs import Run, write_text

    if out is not None:
        write_text(out / ".writable", "").unlink()
        yield out
        return
    run = Run.create(Profile(name, f"symmlib {name}", {}))
    try:
        with run.step(name, {}):
            yield run.path
    finally:
        run.finish()


def _short(path: Path) -> str:
    """`path` as one would type it here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
