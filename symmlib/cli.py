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
from symmlib.sizes import format_size

TRIAL_BYTES = 16 << 10  # a file without content can be made on a disk that is full


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
    arguments = _parser().parse_args(argv)
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


def _digits(number: float) -> str:
    """`number` with three significant digits, or all that stand before the point."""
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:#.3g}".rstrip(".")


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

    if arguments.resume and arguments.profile is not None:
        raise UsageError("--resume goes on with a run's own params.yaml: give no profile with it.")
    resume = Run.open(arguments.resume) if arguments.resume else None
    name = arguments.profile
    if name is None:
        name = resume.path / "params.yaml" if resume else doctor.default_profile()
    profile = profiles.load(name)
    suite.validate(profile)
    if resume is None and (resume := suite.unfinished(name, profile)):
        progress.say(f"this run did not end: going on with it. A new one: symmlib run {profile.name}")
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
        failed_checks = sum(gate["status"] != "valid" for gate in manifest["gates"])
        print(f"INVALID: {failed_checks} of the checks in {_short(finished.results / 'gates.csv')} failed")
    print(f"\nReport: {_short(page)} ({progress.duration(progress.elapsed_s())})")
    return 1 if failed else 0


def allreduce(arguments) -> int:
    from symmlib.allreduce import AllReducePlan, measure, read_results
    from symmlib.routing.derive import derive

    parameters = {
        "world_size": arguments.world_size,
        "backends": [name.strip() for name in arguments.backends.split(",")],
        "sizes": arguments.sizes,
        "dtype": arguments.dtype,
        "mode": arguments.mode,
        "launches": arguments.launches,
        "refine_s": arguments.refine,
        "one_gpu": arguments.one_gpu,
    }
    plan = AllReducePlan(**parameters, device=arguments.device)
    with _output(arguments.out, "allreduce", {"02_allreduce": parameters}) as out:
        summary = measure(plan, out)
        columns = ["backend", "bytes", "median_us", "p99_us", "algbw_gbps", "busbw_gbps", "wrong", "status", "reason"]
        columns = ["world_size", *columns] if len(plan.world_sizes) > 1 else columns
        print(summary[columns].to_string(index=False, na_rep="-", float_format=_digits))
        _print_banner(summary)
        print(f"\nResults: {_short(out / 'results')}")
        try:
            results = read_results([out])
            derive(results.timed, source=results.source).save(out / "routing.toml")
            print(f"Routes: {_short(out / 'routing.toml')}")
        except SymmlibError as error:  # such as: only vLLM's own was measured
            print(f"No routing table: {error}")
    return 0


def serve(arguments) -> int:
    from symmlib import profiles
    from symmlib.serving import ServingExperiment, dry_run, predict, run_experiment

    profile = profiles.load(arguments.profile)
    if "04_serving" not in profile.parameters:
        raise UsageError(f"the profile {profile.name} has no section 04_serving, which says what to serve.")
    parameters = profile.parameters["04_serving"]
    experiment = ServingExperiment.of(parameters)
    if arguments.aa is not None:
        experiment = experiment.a_a(arguments.aa or experiment.baseline)
        named = {"arms": [arm.as_dict() for arm in experiment.arms]}
        parameters |= named | {"baseline": experiment.baseline, "treatment": experiment.treatment}
    if arguments.dry_run:
        print(dry_run.in_words(experiment, dry_run.kind_for(experiment), arguments.routing_table))
        return 0
    with _output(arguments.out, "serve" if arguments.aa is None else "serve-aa", {"04_serving": parameters}) as out:
        try:
            comparison = run_experiment(experiment, out, arguments.routing_table)
        except KeyboardInterrupt:
            print(f"\nWhat is complete: {_short(out / 'results')}. The same command with --out goes on from there.")
            raise
        predict(out)
    print(comparison.to_string(index=False, na_rep="-", float_format="{:.3f}".format))
    print(f"\nResults: {_short(out / 'results')}")
    return 0


def serve_import(arguments) -> int:
    from symmlib.serving.imported import import_results

    comparison = import_results(
        arguments.file,
        arguments.out,
        arm=arguments.arm,
        tp=arguments.tp,
        qps=arguments.qps,
        block=arguments.block,
        baseline=arguments.baseline,
    )
    if comparison.empty:
        print("Kept. With a second arm in the same block and cell there is something to compare.")
    else:
        print(comparison.to_string(index=False, na_rep="-", float_format="{:.3f}".format))
    print(f"\nResults: {_short(arguments.out / 'results')}")
    return 0


def routes_show(arguments) -> int:
    from symmlib.provenance import routed_device
    from symmlib.routing import RoutingTable, show

    table = RoutingTable.load(arguments.table) if arguments.table else RoutingTable.builtin()
    wanted = {name: getattr(arguments, name) for name in ("device", "world_size", "dtype", "mode")}
    if not arguments.table:
        print("Built-in tables, for machines where nobody has measured. Your own: symmlib routes show FILE")
        if not arguments.all and not wanted["device"]:
            wanted["device"] = routed_device()
            print(f"Those for {wanted['device']}, this machine; --all shows the rest.\n")
    print(
        show(table, **wanted)
        .drop(columns=["from_bytes", "to_bytes", "crossover_low", "crossover_high"])
        .to_string(index=False)
    )
    return 0


def routes_derive(arguments) -> int:
    from symmlib.allreduce import read_results
    from symmlib.routing import RoutingTable, show
    from symmlib.routing.derive import derive

    previous = RoutingTable.load(arguments.previous) if arguments.previous else None
    results = read_results(arguments.results)
    candidates = [name.strip() for name in arguments.candidates.split(",")] if arguments.candidates else None
    table = derive(
        results.timed,
        source=results.source,
        candidates=candidates,
        incumbent=arguments.incumbent,
        previous=previous,
    )
    out = arguments.out or arguments.results[0] / "routing.toml"
    table.save(out)
    print(
        show(table).drop(columns=["from_bytes", "to_bytes", "crossover_low", "crossover_high"]).to_string(index=False)
    )
    _print_banner(results.summary)
    print(f"\nRoutes: {_short(out)}")
    return 0


def routes_check(arguments) -> int:
    from symmlib.allreduce import read_results
    from symmlib.allreduce.heldout import check

    results = read_results(arguments.results or [arguments.table.parent])
    with _output(arguments.out or arguments.table.parent, "check", {}) as out:
        found = check(arguments.table, results, out, launches=arguments.launches)
    print(found.regret.to_string(index=False, float_format="{:.3f}".format))
    print(f"\n{found.in_words()[0].upper()}{found.in_words()[1:]}.")
    for row in found.cost.itertuples():
        print(f"The router takes {row.ratio:.3f} times as long as {row.backend} alone at {format_size(row.bytes)}.")
    _print_banner(found.summary)
    print(f"Results: {_short(out / 'results')}")
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
    from symmlib.lab import open_lab

    open_lab(arguments.reports_dir, arguments.options)
    return 0  # not reached: this process is JupyterLab now


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
    command.add_argument("--resume", type=_path, metavar="RUN_DIR", help="go on with this run; skip what is done")
    _reports_dir(command)

    command = _command(commands, allreduce, "measure all-reduces in fresh torchrun launches")
    command.add_argument("--world-size", type=_world_size, default=2, metavar="N[,N...]", help="ranks (default 2), or "
                         "several numbers of ranks to measure in turn, such as 2,4,8")  # fmt: skip
    command.add_argument("--backends", default="gloo,host/one_shot,host/two_shot,vllm/shm", help="names, by commas")
    command.add_argument("--sizes", default="1KiB:16MiB:x4", help="bytes per rank: 4KiB,64KiB or 1KiB:16MiB:x4")
    command.add_argument("--dtype", default="bfloat16", help="bfloat16, float16 or float32")
    command.add_argument("--mode", default="eager", help="eager, or graph on GPUs")
    command.add_argument("--device", default="", help="cpu or cuda (default: where the backends run)")
    command.add_argument("--launches", type=int, default=3, help="fresh torchruns (default 3)")
    command.add_argument("--refine", type=float, default=0, metavar="SECONDS", help="time for further sizes around "
                         "bounds that are not known well (default 0)")  # fmt: skip
    command.add_argument("--one-gpu", action="store_true", help="all ranks share one GPU, under NVIDIA MPS")
    _out(command)

    command = _command(commands, serve, "serve with vLLM under every arm of a profile, and compare")
    command.add_argument("--profile", default="cpu", help="the profile whose 04_serving section to run (default cpu)")
    command.add_argument("--routing-table", type=_path, metavar="FILE", help="what the arm `router` obeys")
    command.add_argument("--aa", nargs="?", const="", metavar="ARM", help="serve ARM (by default the baseline) as both "
                         "arms: what two equal arms differ by is noise, and bounds what later experiments of this load "
                         "call a change")  # fmt: skip
    command.add_argument("--dry-run", action="store_true", help="print commands, schedule and duration; start nothing")
    _out(command)
    others = command.add_subparsers(metavar="import", required=False)
    command = _command(others, serve_import, "add what another load generator measured to the same tables", "import")
    command.add_argument("file", type=_path, metavar="FILE", help="JSON of GuideLLM or vllm bench serve, or AIPerf's "
                         "profile_export.jsonl")  # fmt: skip
    command.add_argument("--arm", required=True, metavar="NAME", help="the server configuration, as tables call it")
    command.add_argument("--tp", type=int, required=True, help="its tensor-parallel size")
    command.add_argument("--qps", type=float, required=True, help="the request rate that was asked for")
    command.add_argument("--block", type=int, default=1, help="the repetition that it belongs to (default 1)")
    command.add_argument("--baseline", default="", metavar="NAME", help="what the others are compared with (by default "
                         "the arm that was imported first)")  # fmt: skip
    command.add_argument("--out", type=_path, required=True, metavar="DIR", help="where raw/ and results/ are")

    routes = _command(commands, None, "routing tables", "routes").add_subparsers(metavar="COMMAND", required=True)
    command = _command(routes, routes_show, "what serves which size, and why", "show")
    command.add_argument(
        "table", type=_path, nargs="?", metavar="FILE", help="a routing table; by default the built-in"
    )
    command.add_argument("--all", action="store_true", help="built-in tables of all devices, not only of this machine")
    command.add_argument("--device", help="only this device, such as sm_100 or cpu")
    command.add_argument("--world-size", type=int, help="only this world size")
    command.add_argument("--dtype", help="only this dtype")
    command.add_argument("--mode", help="only this mode, eager or graph")
    command = _command(routes, routes_derive, "a routing table from measurements", "derive")
    command.add_argument("results", type=_path, nargs="+", metavar="RESULTS", help="a run, or an --out of allreduce")
    command.add_argument("--out", type=_path, metavar="FILE", help="by default routing.toml in the first RESULTS")
    command.add_argument(
        "--previous", type=_path, metavar="FILE", help="the table in use: keep what is not shown worse"
    )
    command.add_argument("--incumbent", metavar="NAME", help="the backend to keep within 3 %% (default: the simplest)")
    command.add_argument("--candidates", metavar="NAMES", help="backends that may be chosen, by commas")

    command = _command(routes, routes_check, "measure a table's choices at sizes it was not derived from", "check")
    command.add_argument("table", type=_path, metavar="FILE", help="a routing table")
    command.add_argument("--results", type=_path, nargs="+", metavar="RESULTS",
                         help="what it was derived from (default: the directory of FILE)")  # fmt: skip
    command.add_argument("--launches", type=int, default=3, help="fresh torchruns (default 3)")
    command.add_argument(
        "--out", type=_path, metavar="DIR", help="where check/ and results/ go (default: as --results)"
    )

    command = _command(commands, report, "make a run's report anew from its files")
    command.add_argument("run_dir", type=_path, metavar="RUN_DIR")

    command = _command(commands, publish, "copy all reports to a directory that a web server can serve")
    command.add_argument("target", type=_path, metavar="DIR")
    _reports_dir(command)

    command = _command(commands, lab, "open JupyterLab on the notebooks, on 127.0.0.1 with its token")
    command.add_argument(
        "options", nargs="*", metavar="OPTION", help="for JupyterLab, after --, such as -- --no-browser"
    )
    _reports_dir(command)
    return parser


def _command(commands, call, text: str, name: str | None = None) -> argparse.ArgumentParser:
    command = commands.add_parser(name or call.__name__, help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.set_defaults(call=call)
    return command


def _reports_dir(command: argparse.ArgumentParser) -> None:
    command.add_argument("--reports-dir", type=_path, metavar="DIR", help="where runs/ is (default: reports/)")


def _out(command: argparse.ArgumentParser) -> None:
    command.add_argument("--out", type=_path, metavar="DIR", help="where raw/ and results/ go (default: a new run)")


@contextlib.contextmanager
def _output(out: Path | None, name: str, parameters: dict[str, dict]) -> Iterator[Path]:
    """`out`, tried now so that a place that cannot be written costs no measurement; else the directory of a new run.

    `parameters`: the one notebook that does the same, and its parameters, so that the new run can be repeated.
    """
    from symmlib import profiles
    from symmlib.runs import Run, write_text

    if out is not None:
        trial = out / ".writable"
        try:
            write_text(trial, " " * TRIAL_BYTES)
        finally:
            with contextlib.suppress(OSError):
                trial.unlink()
        yield out
        return
    profile = profiles.parse({"name": name, "parameters": parameters}, f"symmlib {name}")
    (step, settings), *_ = profile.parameters.items()
    run = Run.create(profile)
    try:
        with run.executing(), run.step(step, settings):
            yield run.path
    finally:
        run.finish()


def _print_banner(summary) -> None:
    """What has to stand beside the numbers of ranks that shared a GPU."""
    from symmlib.analysis import words

    if banner := words.banner(summary["device"]):
        print(f"\n{banner}")


def _world_size(text: str) -> int | list[int]:
    """One number of ranks, or several by commas."""
    try:
        first, *others = map(int, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of ranks nor several, such as 2,4,8") from None
    return [first, *others] if others else first


def _path(text: str) -> Path:
    """A path from the command line; an empty one, such as an unset variable leaves, would be the current directory."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty; give a path")
    return Path(text)


def _short(path: Path) -> str:
    """`path` as one would type it here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
