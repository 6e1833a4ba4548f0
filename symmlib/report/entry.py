"""One run in the list of all runs: what stands in its row and what it is found by, from as few of its files as say it.

`index` calls `entry` for every run; with hundreds of them each file that is not opened counts.
"""

import csv
import json
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import yaml

from symmlib import safe_yaml
from symmlib.analysis import invalid, verdicts, words
from symmlib.backends import ONE_GPU
from symmlib.errors import UsageError
from symmlib.own_files import require_own_files
from symmlib.report import contents

NO_ANSWER = "No answer could be made of these results"
REASON_CHARACTERS = 300  # the run's own page has it whole


@dataclass(frozen=True)
class Entry:
    """One run of the index.

    `page` is None where no report was made; `reason` says why a run failed or is invalid; `mark` is what must be known
    of its numbers (`words.ONE_GPU_MARK`). `verdict` is one of `verdicts.VERDICTS`, 'mixed', 'invalid' or empty. `load`
    says of what: 'TP=4 and 8, QPS 1, 5 and 10'; `tokens` are the same in words that one can search for: 'tp=4'.
    """

    run_id: str
    page: str | None
    status: str
    reason: str = ""
    headline: str = "Not readable"
    certainty: str = ""
    verdict: str = ""
    mark: str = ""
    model: str = ""
    load: str = ""
    tokens: list[str] = field(default_factory=list)
    profile: str = ""
    machine: str = ""
    date: str = ""
    revision: str = ""

    @property
    def sort_key(self) -> str:
        """A number that orders loads by TP, or how many ranks there were, then by QPS."""
        found = dict(token.split("=") for token in reversed(self.tokens))  # of several, the smallest
        return f"{float(found.get('tp') or found.get('ranks') or 0) * 1e6 + float(found.get('qps', 0)):.0f}"


def entry(path: Path) -> Entry:
    """The run in the directory `path`, whatever state it is in: nothing is raised, one damaged run costs no other."""
    page = f"runs/{path.name}/index.html" if (path / "index.html").is_file() else None
    try:
        require_own_files(path)
        run = contents.glance(path, ["comparison"])
    except UsageError as error:
        return Entry(path.name, page, "failed", str(error).replace(str(path), path.name))
    manifest, reason = run.manifest, _reason(run)
    comparison = run.tables["comparison"]
    if comparison is None or not comparison.metric.isin(verdicts.METRICS).any():  # then all-reduces make the headline
        run.tables |= contents.glance(path, ["allreduce_summary"]).tables
    try:
        brief = verdicts.brief(comparison, run.tables.get("allreduce_summary"))
    except Exception as error:  # whatever is odd about the numbers of one run
        brief = verdicts.Brief(NO_ANSWER)
        reason = f"{type(error).__name__}: {error}"
    asked = _asked(path)
    load, tokens = _load(run, asked)
    return Entry(
        run_id=path.name,
        page=page,
        status=str(manifest.get("status", "running")),
        reason=textwrap.shorten(reason, REASON_CHARACTERS, placeholder=" …"),
        headline=brief.headline,
        certainty=brief.certainty,
        verdict=brief.verdict,
        mark=words.ONE_GPU_MARK if _shared_one_gpu(path) else "",
        model=_model(asked),
        load=load,
        tokens=tokens,
        profile=str(manifest.get("profile", "")),
        machine=contents.machine(manifest),
        date=contents.when(manifest.get("started")),
        revision=contents.revision(manifest),
    )


def _reason(run: contents.Contents) -> str:
    """Why the run failed or is invalid; the manifest lists every failed check, which is too long for a list of runs."""
    if run.manifest.get("status") == "invalid":
        gates = contents.glance(run.path, ["gates"]).tables["gates"]
        if failures := invalid.failures(gates):
            return failures
    return str(run.manifest.get("reason") or "")


def _asked(path: Path) -> dict:
    """What the servers were to serve, as the experiment noted it, or else as the run's parameters say."""
    try:
        asked = json.loads((path / "raw" / "serving" / "experiment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        try:
            asked = safe_yaml.parse((path / "params.yaml").read_text(encoding="utf-8"))["parameters"]["04_serving"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError, yaml.YAMLError):
            asked = {}
    return asked if isinstance(asked, dict) else {}


def _model(asked: dict) -> str:
    """A model's name; of a directory on the machine that measured, the last part."""
    name = str(asked.get("model") or "")
    return Path(name).name if name.startswith(("/", "~", ".")) else name


def _load(run: contents.Contents, asked: dict) -> tuple[str, list[str]]:
    """TP and QPS, as they were compared or else asked for; without serving, how many ranks summed. And as tokens."""
    comparison, summary = run.tables["comparison"], run.tables.get("allreduce_summary")
    if comparison is not None:
        tps, rates = sorted(set(comparison.tp)), sorted(set(comparison.qps))
    else:
        tps, rates = _numbers(asked.get("tp")), _numbers(asked.get("qps"))
    if not tps and summary is not None:
        ranks = sorted(set(summary.world_size))
        return f"{words.listed(f'{n:g}' for n in ranks)} ranks", [f"ranks={n:g}" for n in ranks]
    said = [
        f"{name}{words.listed(f'{n:g}' for n in found)}" for name, found in (("TP=", tps), ("QPS ", rates)) if found
    ]
    return ", ".join(said), [f"tp={n:g}" for n in tps] + [f"qps={n:g}" for n in rates]


def _numbers(value) -> list[float]:
    values = value if isinstance(value, list) else [value]
    return sorted(number for number in values if isinstance(number, int | float) and not pd.isna(number))


def _shared_one_gpu(path: Path) -> bool:
    """As `Contents.banner` finds it, without reading what else the tables hold."""
    for name in ("results/allreduce_summary.csv", contents.HELD_OUT, "results/serving_summary.csv"):
        try:
            with open(path / name, encoding="utf-8", newline="") as file:
                if words.banner(row.get("device") for row in csv.DictReader(file)):
                    return True
        except (OSError, ValueError, csv.Error):
            continue
    try:
        return f'{ONE_GPU}"' in (path / "routing.toml").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
