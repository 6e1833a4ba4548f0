"""A run's files, read for the report: tables that are there, and for each that is not, why.

Nothing here raises for a result that is missing, empty or damaged; the report is for failed runs too.
"""

import json
import zlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd
import yaml

from symmlib import safe_yaml
from symmlib.analysis import words
from symmlib.analysis.allreduce import SUMMARY_COLUMNS, timed
from symmlib.errors import SymmlibError, UsageError
from symmlib.own_files import require_own_files
from symmlib.report.manifest import read_manifest
from symmlib.routing import RoutingTable, show

TABLES = {  # name of the table: (the step that makes it, the columns the report needs)
    "allreduce_summary": (
        "02_allreduce",
        "backend world_size dtype mode bytes launches median_us busbw_gbps wrong status reason",
    ),
    "serving_summary": ("04_serving", "block arm tp qps metric statistic value_ms"),
    "serving": ("04_serving", "block arm tp qps ttft_ms tpot_ms"),  # a row per request
    "comparison": (
        "04_serving",
        "tp qps metric statistic baseline treatment ratio ci_low ci_high p_value blocks tier verdict",
    ),
    "gates": ("04_serving", "gate cell status reason"),
    "prediction": (
        "04_serving",
        "tp qps metric statistic baseline treatment predicted_ms measured_ms "
        "measured_low_ms measured_high_ms explained",
    ),
    "accuracy": ("05_accuracy", "tp arm task filter n correct accuracy stderr"),
    "accuracy_comparison": (
        "05_accuracy",
        "tp task filter baseline treatment n only_baseline only_treatment difference ci_low ci_high p_holm detectable "
        "verdict note",
    ),
    "agreement_summary": (
        "05_accuracy",
        "tp baseline treatment prompts identical earliest_divergence largest_gap not_close verdict",
    ),
    "regret": ("03_routing", "world_size dtype mode bytes chosen best regret"),
    "router_cost": ("03_routing", "world_size dtype mode bytes backend ratio ci_low ci_high"),
}
OPTIONAL_TABLES = {  # most runs have none
    "noise_floor": ("04_serving", "metric statistic delta blocks cells"),
    "numerics": ("05_accuracy", "backend world_size dtype inputs share_nearest p99_ulp max_ulp max_abs_error repeats "
                 "identical_repeats identical_across_ranks same_bits_as status reason"),
    "ulp_histogram": ("05_accuracy", "backend world_size dtype inputs ulp_from share"),
    "special_values": ("05_accuracy", "backend world_size dtype case expected got promised ok"),
}  # fmt: skip
FOLLOWS = {  # a table is not missed where that on which it rests is not there
    "prediction": "comparison",
    "serving": "serving_summary",
    "accuracy_comparison": "accuracy",
    "agreement_summary": "accuracy",
}
SAMPLES = "results/allreduce.csv"  # large; read only where they are needed; a published run may have it as .gz
HELD_OUT = "check/results/allreduce_summary.csv"  # of the sizes that `regret` judges; columns as allreduce_summary's
TEXT_COLUMNS = ["backend", "dtype", "mode", "status", "reason", "arm", "metric", "statistic", "baseline", "treatment"]
TEXT_COLUMNS += ["tier", "verdict", "gate", "cell", "chosen", "best", "source", "task", "filter", "note"]
TEXT_COLUMNS += ["inputs", "case", "expected", "got", "same_bits_as"]


@dataclass
class Contents:
    """`tables` by name (None where there is none), `routes` as `symmlib.routing.show` gives them.

    `missing`: (what, why) for everything that should be there; `left_out`: the same for what the profile did not ask
    for.
    """

    path: Path
    manifest: dict
    tables: dict[str, pd.DataFrame | None] = field(default_factory=dict)
    routes: pd.DataFrame | None = None
    missing: list[tuple[str, str]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)

    @property
    def banner(self) -> str:
        """`words.banner` of everything in the run that ranks timed; tables without devices are of the same ranks."""
        timed = [self.tables.get(name) for name in ("allreduce_summary", "held_out", "serving_summary")] + [self.routes]
        return words.banner(device for table in timed if table is not None for device in table.get("device", ()))

    @property
    def workload(self) -> str:
        """What the servers were asked, in a phrase, and by which vLLM; empty where nobody wrote it down."""
        try:
            return f"{self.experiment['workload']}; vLLM {self.experiment['vllm']}"
        except KeyError:
            return ""

    @cached_property
    def experiment(self) -> dict:
        """The serving experiment as it was asked for; empty where nobody wrote it down."""
        try:
            said = json.loads((self.path / "raw" / "serving" / "experiment.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return said if isinstance(said, dict) else {}

    def link(self, *names: str) -> str:
        """The first of the files `names` that the run has, to be linked; empty without any."""
        return next((name for name in names if (self.path / name).is_file()), "")

    def samples(self) -> pd.DataFrame | None:
        """The micro-benchmark's samples whose times count, as `analysis.allreduce.timed` gives them; None without."""
        try:
            name = SAMPLES if (self.path / SAMPLES).is_file() else f"{SAMPLES}.gz"
            samples = pd.read_csv(self.path / name, dtype=dict.fromkeys(["backend", "dtype", "mode"], str))
            return timed(samples, self.tables["allreduce_summary"].reindex(columns=SUMMARY_COLUMNS))
        except (OSError, ValueError, TypeError, OverflowError, KeyError, EOFError, zlib.error) as error:
            # KeyError: a column is missing
            if not isinstance(error, FileNotFoundError):
                self.missing.append((SAMPLES, f"the file cannot be used: {error}"))
            return None

    def lacks(self, name: str, step: str) -> None:
        """Record that the file `name`, which `step` writes, is not there, and why; files with one reason together."""
        planned = _planned(self.path)
        if planned is not None and step not in planned:
            entries, why = self.left_out, f"step {step} is not part of this run's profile"
        else:
            entries, why = self.missing, _why_not(self.manifest, step)
        if entries and entries[-1][1] == why:
            name = f"{entries.pop()[0]}, {name}"
        entries.append((name, why))

    def files(self, under: str = "") -> list[str]:
        """Files below `under`, as sorted paths relative to the run, hidden ones and the report left out."""
        found = (path.relative_to(self.path) for path in (self.path / under).rglob("*") if path.is_file())
        return sorted(path.as_posix() for path in found if path.name[0] != "." and path.as_posix() != "index.html")


def read(run_dir: Path) -> Contents:
    """What the run in `run_dir` holds; raises `UsageError` only if that is no run's directory, or leads out of it."""
    path = Path(run_dir)
    require_own_files(path)
    contents = Contents(path, read_manifest(path))
    contents.missing += _failures(contents)
    for name, (step, columns) in TABLES.items():
        if name in FOLLOWS and contents.tables[FOLLOWS[name]] is None:
            contents.tables[name] = None
            continue
        contents.tables[name] = _table(contents, f"results/{name}.csv", step, columns.split())
    for name, (step, columns) in OPTIONAL_TABLES.items():
        there = (path / "results" / f"{name}.csv").is_file()
        contents.tables[name] = _table(contents, f"results/{name}.csv", step, columns.split()) if there else None
    step, columns = TABLES["allreduce_summary"]
    contents.tables["held_out"] = _table(contents, HELD_OUT, "03_routing", columns.split())
    contents.routes = _routes(contents)
    return contents


def glance(run_dir: Path, names: list[str]) -> Contents:
    """As `read`, of `TABLES` only `names`: for who looks at hundreds of runs. What is not there is not told."""
    path = Path(run_dir)
    contents = Contents(path, read_manifest(path))
    for name in names:
        step, columns = TABLES[name]
        there = (path / "results" / f"{name}.csv").is_file()
        contents.tables[name] = _table(contents, f"results/{name}.csv", step, columns.split()) if there else None
    return contents


def serving_results(run_dir: Path) -> tuple[str, pd.DataFrame | None, pd.DataFrame | None]:
    """(whose, serving summary, comparison): the run's own, or else of the newest run beside it that has both."""
    own = Path(run_dir)
    others = sorted((path for path in own.parent.iterdir() if path.is_dir() and path != own), reverse=True)
    for path in [own, *others]:
        if (path / "results" / "comparison.csv").is_file() and (path / "manifest.json").is_file():
            try:
                tables = read(path).tables
            except UsageError:  # a damaged run costs no other
                continue
            if tables["comparison"] is not None and tables["serving_summary"] is not None:
                whose = "this run" if path == own else f"run {path.name}"
                return whose, tables["serving_summary"], tables["comparison"]
    return "no run yet has serving results", None, None


def gpu_names(manifest: dict) -> list[str]:
    """The GPUs of the machine as their driver names them, one by one; empty without any."""
    return [gpu.get("name", "GPU") for gpu in (manifest.get("hardware") or {}).get("gpus") or []]


def machine(manifest: dict) -> str:
    """The machine in a few words: '8 × NVIDIA B200', or the CPU and its cores."""
    hardware = manifest.get("hardware") or {}
    gpus = gpu_names(manifest)
    if gpus:
        return ", ".join(f"{gpus.count(name)} × {name}" for name in dict.fromkeys(gpus))
    cpu = hardware.get("cpu") or {}
    return f"{cpu.get('model', 'unknown CPU')}, {cpu.get('cores', '?')} cores, no GPU"


def revision(manifest: dict) -> str:
    """The revision that ran, short, with a mark if the tree had changes of its own."""
    git = manifest.get("git") or {}
    if not git.get("revision"):
        return "no revision"
    return f"{git['revision'][:10]}{' + uncommitted changes' if git.get('dirty') else ''}"


def when(stamp: str | None) -> str:
    """'2026-11-23T22:10:05+00:00' as '2026-11-23 22:10 UTC'."""
    if not stamp:
        return "not yet"
    try:
        moment = pd.Timestamp(stamp)
    except (ValueError, TypeError):
        return str(stamp)
    moment = moment.tz_localize("UTC") if moment.tzinfo is None else moment.tz_convert("UTC")
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _failures(contents: Contents) -> list[tuple[str, str]]:
    """Steps that failed or did not end, from the manifest and from the files that failed steps leave."""
    found = {}
    for path in sorted(contents.path.glob("*.failure.json")):
        try:
            reason = json.loads(path.read_text(encoding="utf-8")).get("reason") or "no reason was recorded"
        except (OSError, ValueError, AttributeError, RecursionError):
            reason = f"{path.name} cannot be read"
        found[path.name.removesuffix(".failure.json")] = reason
    for step, record in sorted((contents.manifest.get("steps") or {}).items()):
        if record.get("status") == "failed":
            found.setdefault(step, record.get("reason") or "no reason was recorded")
        elif record.get("status") == "running" and record.get("ended") is None and contents.manifest.get("ended"):
            found.setdefault(step, "it did not end: the suite was stopped while it ran")
    return [(f"step {step} failed", reason) for step, reason in sorted(found.items())]


def _table(contents: Contents, name: str, step: str, columns: list[str]) -> pd.DataFrame | None:
    path = contents.path / name
    if not path.is_file():
        contents.lacks(name, step)
        return None
    try:
        dtypes = dict.fromkeys(TEXT_COLUMNS, str)
        table = pd.read_csv(path, dtype=dtypes, keep_default_na=False, na_values=["", "nan", "<NA>"])
        absent = [column for column in columns if column not in table.columns]
        if absent:
            raise ValueError(f"it has no column {', '.join(absent)}")
        if table.empty:
            raise ValueError(f"it has no rows; {_why_not(contents.manifest, step)}")
        numbers = {column: pd.to_numeric(table[column]) for column in columns if column not in TEXT_COLUMNS}
    except (ValueError, TypeError, OverflowError, OSError) as error:  # pandas' own parsing errors are ValueErrors
        contents.missing.append((name, f"the file cannot be used: {error}"))
        return None
    texts = {column: table[column].fillna("") for column in TEXT_COLUMNS if column in table.columns}
    return table.assign(**numbers, **texts)


def _routes(contents: Contents) -> pd.DataFrame | None:
    path = contents.path / "routing.toml"
    if not path.is_file():
        contents.lacks("routing.toml", "03_routing")
        return None
    try:
        return show(RoutingTable.load(path))
    except SymmlibError as error:
        contents.missing.append(("routing.toml", str(error)))
        return None


def _planned(path: Path) -> set[str] | None:
    """The steps that the run's `params.yaml` asks for; None if that cannot be told."""
    try:
        return set(safe_yaml.parse((path / "params.yaml").read_text(encoding="utf-8"))["parameters"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return None


def _why_not(manifest: dict, step: str) -> str:
    record = (manifest.get("steps") or {}).get(step)
    if record is None:
        return f"step {step} was not reached"
    if record.get("status") == "failed":
        return f"step {step} failed"
    return f"step {step} {'still runs' if record.get('status') == 'running' else 'did not write it'}"
