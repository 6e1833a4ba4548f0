"""What was measured, read back: of the directories that somebody names, or of the run that a notebook belongs to."""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from symmlib.allreduce.measure import measure
from symmlib.allreduce.plan import AllReducePlan
from symmlib.analysis.allreduce import POINT, timed
from symmlib.errors import SymmlibError, UsageError
from symmlib.progress import say
from symmlib.runs import Run, latest_run

SAMPLES, SUMMARY = "allreduce.csv", "allreduce_summary.csv"
PLAN = Path("raw") / "allreduce" / "plan.json"
QUICK = AllReducePlan(2, "gloo,host/one_shot,host/two_shot", "1KiB:4MiB:x4", launches=2)


@dataclass(frozen=True)
class Results:
    """`summary` as `measure` returns it, the `timed` samples (see `analysis.allreduce.timed`) that count, and the
    `source` as a routing table names it. Of several directories the summaries stand below each other.
    `beside_a_model`: whether all were measured so (`AllReducePlan`); what keeps no plan was not."""

    summary: pd.DataFrame
    timed: pd.DataFrame
    source: str
    beside_a_model: bool = False


def read_results(paths: list[Path]) -> Results:
    """The measurements in `paths`: runs, or what `symmlib allreduce --out` wrote. Their launches are told apart.

    Raises `UsageError` for a directory without results, or whose files cannot be read.
    """
    if not paths:
        raise UsageError("no results to read. Name a run's directory, or what `symmlib allreduce --out` wrote.")
    summaries, samples, launches = [], [], 0
    for path in paths:
        results = Path(path) / "results"
        summaries.append(_read(results / SUMMARY, [*POINT, "status"], ("median_us", "wrong"), ("device", "multicast")))
        these = timed(_read(results / SAMPLES, [*POINT, "launch", "time_us"]), summaries[-1])
        samples.append(these.assign(launch=these["launch"] + launches))
        launches = int(max(samples[-1]["launch"].max(), launches)) if len(these) else launches
    names = ", ".join(_source(Path(path)) for path in paths)
    summary, these = (pd.concat(tables, ignore_index=True) for tables in (summaries, samples))
    beside = {bool(plan_of(Path(path)).get("beside_a_model")) for path in paths}
    if len(beside) > 1:
        raise UsageError(f"{names}: only some were measured with beside_a_model. Take one kind at a time.")
    return Results(summary, these, names, beside.pop())


def _read(path: Path, keys: list[str], numbers: tuple[str, ...] = (), others: tuple[str, ...] = ()) -> pd.DataFrame:
    """The table in `path`; raises `UsageError` with its name where `keys` or `numbers` are not what we write there.

    No key may be empty, nor any of `others`; of `numbers` each may.
    """
    whole = {"world_size", "bytes", "launch"}
    try:
        if not path.is_file() and path.with_name(f"{path.name}.gz").is_file():  # as published runs keep theirs
            path = path.with_name(f"{path.name}.gz")
        table = pd.read_csv(path, dtype=dict.fromkeys(["backend", "dtype", "mode", "status", "device"], str))
        if absent := [name for name in [*keys, *numbers, *others] if name not in table.columns]:
            raise ValueError(f"it has no column {', '.join(absent)}")
        for name in [key for key in [*keys, *numbers] if key in {*whole, *numbers, "time_us"}]:
            table[name] = pd.to_numeric(table[name])
            least = 1 if name in whole else 0
            if not table[name].dropna().between(least, 2**53).all():  # what a float still counts exactly
                raise ValueError(f"not every {name} is a number of at least {least}")
            if name in whole and (table[name].dropna() % 1).any():
                raise ValueError(f"not every {name} is a whole number")
        for name in [*keys, *others]:
            if table[name].isna().any():
                raise ValueError(f"not every row has a {name}")
        if "time_us" in keys and not table["time_us"].gt(0).all():
            raise ValueError("not every time_us is above 0")
        if "multicast" in others and not table["multicast"].isin([True, False]).all():
            raise ValueError("not every multicast is True or False")
    except FileNotFoundError:
        raise UsageError(f"{path.parent.parent} has no measurements: there is no {path}.") from None
    # pandas' parsing errors are ValueErrors; a number of 400 digits gives an OverflowError.
    except (ValueError, TypeError, OverflowError, OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path} is not what `symmlib allreduce` writes: {error}.") from None
    return table.astype({name: int for name in keys if name in whole})


def results_for(run: Run) -> Results:
    """The measurements to derive `run`'s routes from.

    A run whose own step 02_allreduce left nothing gets an error rather than another run's numbers; a run without that
    step, such as a notebook opened alone, gets those of the newest run that has some, else `QUICK` is measured into it.
    """
    found = run if (run.results / SUMMARY).is_file() else None
    if found is None and "02_allreduce" in run.manifest["steps"]:
        raise SymmlibError(f"02_allreduce left no {SUMMARY} in {run.results}; make that step work first.")
    found = found or latest_run(run.path.parent.parent, needing=SUMMARY)
    if found is None:
        say("no run has measurements yet: making quick ones")
        measure(QUICK, run.path)
        found = run
    elif found.id != run.id:
        say(f"reading the measurements of run {found.id}")
    return read_results([found.path])


def plan_of(path: Path) -> dict:
    """The plan that was measured in the directory `path`; empty where none was kept."""
    try:
        return dict(json.loads((path / PLAN).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _source(path: Path) -> str:
    try:
        return (
            f"run {json.loads((path / 'manifest.json').read_text())['run_id']}"  # its directory may have been renamed
        )
    except FileNotFoundError:
        return f"symmlib allreduce --out {path}"
    except (OSError, ValueError, KeyError, TypeError):
        return f"run {path.resolve().name}"
