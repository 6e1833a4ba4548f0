"""`symmlib doctor`, `run` and `lab`: the whole suite, and the notebooks by hand."""

from symmlib import progress
from symmlib.cli.options import add_blocks, add_command, add_model_and_tp, add_qps, add_reports_dir, add_within, path
from symmlib.cli.output import short
from symmlib.errors import UsageError


def add_doctor(commands) -> None:
    command = add_command(commands, doctor, "what this machine can run, and why not what it can't")
    add_reports_dir(command)


def add_run(commands) -> None:
    command = add_command(commands, run, "execute a profile's notebooks and make the report")
    command.add_argument("profile", nargs="?", metavar="PROFILE", help="a shipped profile, or a YAML file such as a "
                         "run's params.yaml; by default the one that suits this machine")  # fmt: skip
    command.add_argument("--resume", type=path, metavar="RUN_DIR", help="go on with this run; skip what is done")
    add_model_and_tp(command)
    add_qps(command)
    add_within(command)
    add_blocks(command)
    add_reports_dir(command)


def add_lab(commands) -> None:
    command = add_command(commands, lab, "open JupyterLab on the notebooks, on 127.0.0.1 with its token")
    command.add_argument(
        "options", nargs="*", metavar="OPTION", help="for JupyterLab, after --, such as -- --no-browser"
    )
    add_reports_dir(command)


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
    from symmlib import deadline, doctor, profiles, suite
    from symmlib.runs import Run

    deadline.set_within(arguments.within)
    if arguments.resume and arguments.profile is not None:
        raise UsageError("--resume goes on with a run's own params.yaml: give no profile with it.")
    load = {"model": arguments.model, "tp": arguments.tp, "qps": arguments.qps}
    if arguments.resume and (given := [f"--{key}" for key, value in load.items() if value is not None]):
        raise UsageError(f"--resume goes on with what a run has begun: {', '.join(given)} would make it another. Leave "
                         "--resume out for a new run.")  # fmt: skip
    resume = Run.open(arguments.resume) if arguments.resume else None
    name = arguments.profile
    if name is None:
        name = resume.path / "params.yaml" if resume else doctor.default_profile()
    profile = profiles.load(name).with_load(**load)
    suite.validate(profile)
    if resume is None and (resume := suite.unfinished(name, profile)):
        progress.say(
            "this run did not end: going on with it. To begin anew: symmlib run with a copy of its params.yaml"
        )
    if resume is None:
        suite.require_routes(profile)
    if (blocks := arguments.blocks) is not None:
        profile = suite.with_blocks(resume, profile, blocks) if resume else profile.with_blocks(blocks)
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
        print(f"Try again what failed: symmlib run --resume {short(finished.path)}")
    elif manifest["status"] == "invalid":
        failed_checks = sum(gate["status"] != "valid" for gate in manifest["gates"])
        print(f"INVALID: {failed_checks} of the checks in {short(finished.results / 'gates.csv')} failed")
    print(f"\nReport: {short(page)} ({progress.duration(progress.elapsed_s())})")
    return 1 if failed else 0


def lab(arguments) -> int:
    from symmlib.lab import open_lab

    open_lab(arguments.reports_dir, arguments.options)
    return 0  # not reached: this process is JupyterLab now
