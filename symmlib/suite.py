"""A profile from start to finish: its notebooks in order, then the report. What `symmlib run` and `make report` do."""

import contextlib
from pathlib import Path

import pandas as pd

from symmlib import notebooks, progress
from symmlib.allreduce.plan import AllReducePlan
from symmlib.backends import BACKENDS
from symmlib.errors import SymmlibError, UsageError, unknown
from symmlib.profiles import Profile
from symmlib.runs import Run, default_reports_dir, digest, write_text
from symmlib.serving.accuracy import AccuracyExperiment
from symmlib.serving.arms import Arm
from symmlib.serving.experiment import ServingExperiment
from symmlib.serving.model import find_model
from symmlib.serving.turns import require_all_blocks

# A step whose input was made anew is out of date, whatever its own parameters say.
# 05_accuracy keeps its gates beside those of 04_serving, which writes them anew.
INPUTS = {
    "03_routing": ["02_allreduce"],
    "04_serving": ["03_routing"],
    "05_accuracy": ["03_routing", "04_serving"],
    "06_pr20759": ["04_serving"],
}

# Notebooks whose parameters are the fields of a plan that checks itself.
PLANS = {
    "02_allreduce": AllReducePlan,
    "04_serving": ServingExperiment,
    "05_accuracy": AccuracyExperiment,
}

NUMERICS = "numerics_backends"  # of 05_accuracy, beside its plan's


def validate(profile: Profile) -> None:
    """Raise `UsageError` now for what a notebook would refuse later, such as a backend that does not exist."""
    for name, plan in PLANS.items():
        if name in profile.parameters:
            try:
                plan(**{key: value for key, value in profile.parameters[name].items() if key != NUMERICS})
                if "model" in profile.parameters[name]:
                    find_model(profile.parameters[name]["model"])
            except UsageError as error:
                raise UsageError(f"profile {profile.name}: {name}: {error}") from None
    routing = profile.parameters.get("03_routing", {})
    named = [("03_routing", name) for name in [*routing.get("candidates", []), routing.get("incumbent")] if name]
    named += [("05_accuracy", name) for name in profile.parameters.get("05_accuracy", {}).get(NUMERICS, [])]
    for step, name in named:
        if name not in BACKENDS:
            raise UsageError(f"profile {profile.name}: {step}: {unknown('backend', name, BACKENDS)}")
    if (launches := routing.get("held_out_launches", 1)) < 1:
        raise UsageError(
            f"profile {profile.name}: 03_routing: held_out_launches {launches} is not at least 1: a table that nothing "
            "checked is not reported. To derive one only, leave 03_routing out and use `symmlib routes derive`."
        )


def require_routes(profile: Profile) -> None:
    """Raise `UsageError` where the router would be served at a TP for which the profile measures no all-reduces, and so
    derives no routes."""
    if not {"02_allreduce", "03_routing"} <= profile.parameters.keys():
        return
    measured = AllReducePlan(**profile.parameters["02_allreduce"]).world_sizes
    for step in ("04_serving", "05_accuracy"):
        section = profile.parameters.get(step, {"arms": [], "tp": []})
        lacking = [tp for tp in section["tp"] if tp not in measured]
        if lacking and any(Arm.of(arm).is_routed for arm in section["arms"]):
            raise UsageError(
                f"profile {profile.name}: {step}: tp {lacking[0]} is not among the world_size of 02_allreduce "
                f"({', '.join(map(str, measured))}), so that the router would have no routes for it. Name it there, "
                "too; `symmlib run --tp` sets both."
            )


def run_profile(profile: Profile, *, reports_dir: Path | None = None, resume: Run | None = None) -> Run:
    """Execute `profile` in a new run, or go on with the run `resume`, and return it; its manifest says how it went.

    A step that fails is reported and the next one goes on. With `resume`, a step is skipped if it ended well with the
    same parameters, its files are still there, and no step before it that it reads from had to run again. Ctrl-C and
    SIGTERM end what is running, mark the run failed ('interrupted') and are raised again, Ctrl-C after the page was
    made. Raises `UsageError` if
    `resume` is still being executed.
    """
    progress.start_clock()
    run = resume or Run.create(profile, reports_dir)
    with run.executing():
        if resume:
            run.update(status="running", reason="", ended=None, profile_hash=profile.hash)
            write_text(run.path / "params.yaml", profile.dumps())
        progress.say(f"{'resuming' if resume else 'run'} {run.path}")
        try:
            for note in profile.downloads():
                progress.say(note)
            _execute_steps(run, profile, _durations(profile, reports_dir))
        except BaseException as error:
            try:
                run.finish(interrupted=isinstance(error, KeyboardInterrupt | SystemExit))
                if isinstance(error, KeyboardInterrupt):  # who ends us otherwise may not want to wait
                    progress.say(f"interrupted; a page of what is complete: {report(run)}")
            except (OSError, SymmlibError) as unwritten:  # such as a full disk: what ended the run is to be told
                progress.say(f"the end of {run.path} could not be recorded: {unwritten}")
            raise
        run.finish()
    return run


def with_blocks(run: Run, profile: Profile, blocks: int) -> Profile:
    """`profile` with so many blocks, for `run` to be gone on with. Raises `UsageError` for fewer than have run."""
    changed = profile.with_blocks(blocks)
    require_all_blocks(ServingExperiment.of(changed.serving()), run.path / "raw" / "serving")
    return changed


def unfinished(name: str | Path, profile: Profile) -> Run | None:
    """The run whose own params.yaml `name` is, if it was killed and nobody goes on with it; None for any other profile.

    So `symmlib run RUN/params.yaml` ends what was begun, and repeats what has ended as a run of its own.
    """
    place = Path(name).parent
    if Path(name).name != "params.yaml" or not (place / "manifest.json").is_file():
        return None
    run = Run.open(place)
    return run if run.was_killed() and run.manifest.get("profile_hash") == profile.hash else None


def report(run: Run) -> Path:
    """Write the run's report, and the index of all runs where it is one of `runs/`; returns the report's path."""
    from symmlib.report import make_index, make_report

    page = make_report(run.path)
    if run.path.parent.name == "runs":  # a copy of a run elsewhere has none, and what lies above it is not ours
        try:
            make_index(run.path.parent.parent)
        except UsageError as error:  # the run and its page are there all the same
            progress.say(f"no index of all runs: {error}")
    return page


def verdicts(run: Run) -> list[str]:
    """What the run found, in sentences: those with which its report begins."""
    from symmlib.analysis.verdicts import sentences
    from symmlib.report import contents

    tables = contents.read(run.path).tables
    return sentences(tables["comparison"], tables["allreduce_summary"], tables["gates"])


def _execute_steps(run: Run, profile: Profile, durations: dict[str, float]) -> None:
    executed = set()
    for number, (name, parameters) in enumerate(profile.parameters.items(), start=1):
        step = f"step {number} of {len(profile.parameters)}: {name}"
        if run.is_done(name, parameters) and not executed & {*INPUTS.get(name, [])}:
            progress.say(f"{step} is done already")
            continue
        executed.add(name)
        before = f" (took {progress.duration(durations[name])} last time)" if name in durations else ""
        progress.say(f"{step}{before}")
        try:
            with run.step(name, parameters):
                notebooks.execute(run, name, parameters)
        except SymmlibError as error:
            progress.say(f"{name} failed: {error}")


def _durations(profile: Profile, reports_dir: Path | None) -> dict[str, float]:
    """Seconds that each step took in the newest earlier run that executed it with the same parameters."""
    wanted = {name: digest(parameters) for name, parameters in profile.parameters.items()}
    found = {}
    for path in sorted((Path(reports_dir or default_reports_dir()) / "runs").glob("*/manifest.json"), reverse=True)[
        :20
    ]:
        try:
            steps = Run(path.parent).manifest["steps"]
        except SymmlibError:
            continue  # damaged, or of another version: an estimate can do without it
        for name, record in steps.items():
            if isinstance(record, dict) and record.get("status") == "ok" and name in wanted.keys() - found.keys():
                with contextlib.suppress(KeyError, TypeError, ValueError):
                    if record["parameters_hash"] == wanted[name]:
                        took = pd.Timestamp(record["ended"]) - pd.Timestamp(record["started"])
                        found[name] = took.total_seconds()
    return found
