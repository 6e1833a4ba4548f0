"""In what several runs differ: their provenance, fact by fact, and what makes their numbers those of different things.

Called by `compare`. A fact that nobody wrote down is no agreement: it counts as a difference where numbers rest on it.
"""

import json

import pandas as pd
import yaml

from symmlib import safe_yaml
from symmlib.analysis import fastest, unpaired, words
from symmlib.report import contents
from symmlib.report.contents import Contents

UNKNOWN = "not recorded"
ABSENT = "–"
LOAD = ("model", "workload", "input_len", "output_len", "prefix_len", "duration_s", "max_model_len", "server_args")
SHAPES = (  # (what, the table, the column): what numbers must agree in to stand in one row
    ("dtype", "allreduce_summary", "dtype"),
    ("number of ranks", "allreduce_summary", "world_size"),
    ("mode", "allreduce_summary", "mode"),
    ("backends", "allreduce_summary", "backend"),
    ("sizes, in bytes", "allreduce_summary", "bytes"),
    ("TP", "serving_summary", "tp"),
    ("QPS", "serving_summary", "qps"),
    ("arms", "serving_summary", "arm"),
)
LOUD = ("dtype", "world_size", "mode", "tp", "qps")  # columns; without a common value there is a notice


def facts(run: Contents) -> dict[str, str]:
    """What is known of where `run` comes from, in the order of what moves its numbers most."""
    manifest = run.manifest
    hardware = manifest["hardware"]
    cpu, gpus = hardware["cpu"], hardware["gpus"]
    found = {
        "GPU": contents.machine(manifest) if gpus else "none",
        "GPU driver": _one([gpu.get("driver", UNKNOWN) for gpu in gpus]),
        "GPU clock, MHz": _one([gpu.get("max_sm_clock_mhz", UNKNOWN) for gpu in gpus]),
        "GPU power limit, W": _one([gpu.get("power_limit_w", UNKNOWN) for gpu in gpus]),
        "CPU": cpu.get("model", UNKNOWN),
        "CPU cores": cpu.get("cores", UNKNOWN),
        "kernel": cpu.get("kernel", UNKNOWN),
        "revision": contents.revision(manifest),
        "profile": manifest["profile"] or UNKNOWN,
        "started": contents.when(manifest["started"]),
    }
    found |= {f"version of {name}": version for name, version in sorted(manifest["versions"].items())}
    found |= {name: value for name, value in sorted(_flat(parameters(run)).items())}
    found |= {f"${name}": value for name, value in sorted(manifest["environment"].items())}
    return {name: str(value) for name, value in found.items()}


def table(runs: list[Contents]) -> tuple[list[list[str]], list[list[str]]]:
    """Rows (fact, value in each run): those in which `runs` differ, and those in which they agree."""
    each = [facts(run) for run in runs]
    names = sorted({name: None for known in each for name in known}, key=lambda name: _rank(name, each))
    rows = [[name, *(known.get(name, ABSENT) for known in each)] for name in names]
    return [row for row in rows if len({*row[1:]}) > 1], [row for row in rows if len({*row[1:]}) == 1]


def mismatches(first: Contents, run: Contents, label: str) -> dict:
    """What makes numbers of `run` (called `label`; `first` is called A) those of other things than `first`'s.

    `notices` in words; `allreduce` and `serving`: why there are no ratios of them, empty where there may be.
    """
    found = {"notices": [], "allreduce": "", "serving": ""}
    devices = device(first), device(run)
    if devices[0] != devices[1] or UNKNOWN in devices:
        found |= {"allreduce": "another device", "serving": "another device"}
        found["notices"].append(
            f"Another device: A ran on {devices[0]}, {label} on {devices[1]}. Nothing of {label} is put in ratio to A."
        )
    if first.tables["serving_summary"] is not None and run.tables["serving_summary"] is not None:
        loads = load(first), load(run)
        if fields := unlike(*loads):
            what = f"another {'model' if 'model' in fields else 'workload'}"
            found["serving"] = found["serving"] or what
            told = "; ".join(f"{field}: {loads[0][field]} in A, {loads[1][field]} in {label}" for field in fields)
            found["notices"].append(
                f"{what.capitalize()} was served ({told}). TTFT and TPOT of {label} are not put in ratio to A."
            )
        if renamed := _renamed(first, run):
            found["notices"].append(
                f"Another arm of the same name: {words.listed(renamed)} had other settings in {label} than in A. Its "
                "times are not put in ratio."
            )
    for what, table, column in SHAPES:
        sides = [_values(side.tables[table], column) for side in (first, run)]
        if column in LOUD and all(sides) and not set(sides[0]) & set(sides[1]):
            found["notices"].append(
                f"Another {what}: {', '.join(sides[0])} in A, {', '.join(sides[1])} in {label}. No row of "
                f"{'serving' if table == 'serving_summary' else 'the all-reduces'} is in both."
            )
    return found


def in_words(first: Contents, run: Contents) -> str:
    """In what the shapes of two runs differ that share no row at all."""
    told = []
    for what, table, column in SHAPES:
        sides = [", ".join(_values(side.tables[table], column)) or "none" for side in (first, run)]
        if sides[0] != sides[1]:
            told.append(f"{what}: {sides[0]} in the one, {sides[1]} in the other")
    if device(first) != device(run):
        told.append(f"device: {device(first)} in the one, {device(run)} in the other")
    return "; ".join(told) or "neither has all-reduce or serving results that count"


def serving_times(first: Contents, run: Contents) -> pd.DataFrame:
    """`unpaired.serving_times` of `run`, with a note at arms that are other ones than `first`'s of that name."""
    times = unpaired.serving_times(run.tables["serving_summary"], run.tables["comparison"])
    other = times.arm.isin(_renamed(first, run))
    return times.assign(note=times.note.mask(other & (times.note == ""), "another arm of that name"))


def device(run: Contents) -> str:
    """The kind of machine whose times these are: its GPUs by name, or its CPU and cores."""
    names = sorted(set(contents.gpu_names(run.manifest)))
    if names:
        return ", ".join(names)
    cpu = run.manifest["hardware"]["cpu"]
    return f"{cpu['model']}, {cpu['cores']} cores" if "model" in cpu and "cores" in cpu else UNKNOWN


def load(run: Contents) -> dict[str, str]:
    """What was served, and what was asked of it: the same in two runs, or their times are of different things."""
    said = {**parameters(run).get("04_serving", {}), **_experiment(run)}
    return {name: str(said.get(name, UNKNOWN)) for name in LOAD}


def unlike(first: dict[str, str], other: dict[str, str]) -> list[str]:
    """In which of the fields that `load` gives two runs differ, or cannot be known to agree."""
    return [
        name
        for name, value in first.items()
        if value != other[name] or (value == UNKNOWN and name in ("model", "input_len", "output_len"))
    ]


def arms(run: Contents) -> dict[str, str]:
    """What each arm of `run` is, as its experiment wrote it down: a name may mean another thing in another run."""
    said = _experiment(run).get("arms") or parameters(run).get("04_serving", {}).get("arms") or []
    named = [arm if isinstance(arm, dict) else {"name": arm} for arm in said if isinstance(arm, dict | str)]
    return {str(arm.get("name")): json.dumps(_meant(arm), sort_keys=True) for arm in named}


def _renamed(first: Contents, run: Contents) -> list[str]:
    one, other = arms(first), arms(run)
    return sorted(name for name in one.keys() & other.keys() if one[name] != other[name])


def _values(table: pd.DataFrame | None, column: str) -> list[str]:
    if table is None:
        return []
    rows = fastest.usable(table) if "median_us" in table else table
    return [f"{value:g}" if isinstance(value, float) else str(value) for value in sorted(rows[column].unique())]


def parameters(run: Contents) -> dict[str, dict]:
    """The sections of the run's `params.yaml`; empty where they cannot be read."""
    try:
        sections = safe_yaml.parse((run.path / "params.yaml").read_text(encoding="utf-8"))["parameters"]
        return {str(name): section for name, section in sections.items() if isinstance(section, dict)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return {}


def _experiment(run: Contents) -> dict:
    try:
        said = json.loads((run.path / "raw" / "serving" / "experiment.json").read_text(encoding="utf-8"))
        return said if isinstance(said, dict) else {}
    except (OSError, ValueError, RecursionError):
        return {}


def _meant(arm: dict) -> dict:
    """An arm without what is the default anyway, so that its short form in a profile means the same."""
    defaults = {"all_reduce": arm.get("name"), "server_args": [], "environment": {}, "must_use": [], "must_not_use": []}
    return {name: value for name, value in arm.items() if name != "name" and value != defaults.get(name)}


def _flat(sections: dict) -> dict[str, str]:
    return {
        f"{section}: {name}": json.dumps(value) if isinstance(value, list | dict) else value
        for section, values in sections.items()
        for name, value in values.items()
    }


def _one(values: list[str]) -> str:
    return ", ".join(dict.fromkeys(map(str, values))) or "none"


def _rank(name: str, each: list[dict]) -> tuple[int, int]:
    """Where `name` stands: kinds of facts in the order of `facts`, whichever run has it."""
    kind = 1 if name.startswith("version of ") else 3 if name.startswith("$") else 2 if ": " in name else 0
    return kind, min([*known].index(name) for known in each if name in known)
