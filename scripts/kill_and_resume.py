"""Kill a run at random moments, go on with it, and compare what it holds in the end with an undisturbed one.

    .venv/bin/python scripts/kill_and_resume.py [KILLS] [--seed SEED] [--keep DIR]

A run of 02_allreduce alone is started by `symmlib run` and killed by SIGKILL, itself and its process group, at a
moment drawn evenly from the time that an undisturbed one takes; then it is resumed and killed again, `KILLS_OF_A_RUN`
times at most, and then resumed to its end. After each kill nothing of it may run any more, and every file but what
ranks append to must be whole. In the end its tables must have the rows of the undisturbed run (times aside). Then the
next run begins, until there were KILLS kills (by default 40). Exits with 1 at the first difference.
"""

import argparse
import contextlib
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import yaml

SYMMLIB = Path(sys.executable).with_name("symmlib")
MARK = "SYMMLIB_KILLED"  # in the environment of all that a run starts, so that what it leaves is found
PROFILE = {
    "name": "killed",
    "parameters": {
        "02_allreduce": {"world_size": 2, "backends": ["gloo", "host/one_shot"], "sizes": "512B,4KiB", "launches": 2}
    },
}
KILLS_OF_A_RUN = 5
GONE_S = 60  # for the processes of a killed run to end: on a crowded machine, too
KEYS = ("launch", "round", "backend", "world_size", "dtype", "mode", "bytes", "device", "status", "wrong", "reason")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kills", nargs="?", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where the runs go (default: removed in the end)")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        place = arguments.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="symmlib-kill-")))
        place.mkdir(parents=True, exist_ok=True)
        sys.exit(0 if survives(place, arguments.kills, random.Random(arguments.seed)) else 1)


def survives(place: Path, kills: int, moments: random.Random) -> bool:
    """Kill runs in `place` `kills` times in all; whether each held in the end what an undisturbed one holds."""
    profile = place / "killed.yaml"
    profile.write_text(yaml.safe_dump(PROFILE))
    began = time.monotonic()
    started([profile], place / "undisturbed").wait()
    lasts_s = time.monotonic() - began
    wanted = contents(only_run(place / "undisturbed"))
    print(f"undisturbed: {lasts_s:.0f} s, {sum(map(len, wanted.values()))} rows and files", flush=True)
    done = runs = 0
    while done < kills:
        runs += 1
        reports, resumed = place / f"run-{runs}", 0
        while True:
            run = next((manifest.parent for manifest in reports.glob("runs/*/manifest.json")), None)
            process = started(["--resume", run] if run else [profile], reports)  # it may not have come so far as a run
            moment_s = moments.uniform(0, lasts_s) if done < kills and resumed < KILLS_OF_A_RUN else 3600
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(moment_s)
            if process.poll() is not None:
                break
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            done, resumed = done + 1, resumed + 1
            if problem := left_running() or broken(reports):
                print(f"kill {done}, after {moment_s:.1f} s: {problem}", flush=True)
                return False
        found = contents(only_run(reports))
        differing = [name for name in {*wanted, *found} if wanted.get(name) != found.get(name)]
        said = f"differ in {', '.join(sorted(differing))}" if differing else "are the undisturbed one's"
        print(f"run {runs}: killed {resumed} times, {done} of {kills} kills; rows and files {said}", flush=True)
        if differing or process.returncode or left_running():
            return False
    return True


def started(what: list, reports: Path) -> subprocess.Popen:
    """`symmlib run` in a process group of its own."""
    with open(reports.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(
            [SYMMLIB, "run", *what, "--reports-dir", reports],
            stdout=log, stderr=log, process_group=0, env={**os.environ, MARK: str(reports.parent)},
        )  # fmt: skip


def only_run(reports: Path) -> Path:
    """The run that came to its end; of those that were killed before they had a manifest there is only a directory."""
    (manifest,) = reports.glob("runs/*/manifest.json")
    return manifest.parent


def contents(run: Path) -> dict[str, set]:
    """The rows of every table by what was measured, how each step ended, and the files that are there."""
    found = {"steps": {(name, step["status"]) for name, step in manifest_of(run)["steps"].items()}}
    for table in sorted(run.glob("results/*.csv")):
        with open(table, newline="") as file:
            found[table.name] = {tuple(row[key] for key in KEYS if key in row) for row in csv.DictReader(file)}
    found["files"] = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    return found


def manifest_of(run: Path) -> dict:
    return json.loads((run / "manifest.json").read_text())


def left_running() -> str:
    """What a killed run still runs after `GONE_S` seconds; '' for nothing."""
    deadline = time.monotonic() + GONE_S
    while alive := [process for process in psutil.process_iter(["cmdline"]) if is_of_a_run(process)]:
        if time.monotonic() > deadline:
            return f"still running: {[process.info['cmdline'] for process in alive]}"
        time.sleep(0.05)
    return ""


def is_of_a_run(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        return process.status() != psutil.STATUS_ZOMBIE and MARK in process.environ()
    return False


def broken(reports: Path) -> str:
    """The first file that is neither whole nor what a rank appends to line by line; '' where there is none."""
    for path in reports.rglob("*"):
        if path.name.startswith(".") or not path.is_file():
            continue  # a file beside its place: nobody reads it
        text = path.read_text(errors="replace")
        try:
            if path.suffix in (".json", ".ipynb"):
                json.loads(text)
            whole = path.suffix != ".csv" or path.parent.name != "results" or text.endswith("\n")
            whole = whole and (path.suffix != ".yaml" or bool(yaml.safe_load(text)))
        except ValueError:
            whole = False
        if not whole:
            return f"{path} is not whole"
    return ""


if __name__ == "__main__":
    main()
