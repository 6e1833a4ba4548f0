"""Runs side by side: `compare` lays what two or more of them measured next to each other, on one page.

The page never judges one run against another. Runs made at different times are no blocks of one experiment: whatever
else changed between them is in their ratios too. What is known to differ stands at the top; numbers of different things
stand side by side without a ratio, under a notice that says why.
"""

import string
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from markupsafe import Markup, escape

from symmlib.analysis import unpaired, words
from symmlib.errors import UsageError
from symmlib.report import contents, differences, figures, sections
from symmlib.report.contents import Contents
from symmlib.report.index import require_ours
from symmlib.report.page import NO_ANSWER, environment
from symmlib.report.parts import Table, plot, unbroken
from symmlib.runs import digest, write_text
from symmlib.sizes import format_size

UNPAIRED = (
    "These runs are unpaired: they were made at different times, not block by block against each other. The noise of "
    "each run, and whatever else changed between them, is in every ratio, and nothing here says how large it is. So "
    "there is no verdict, no interval and no p-value between runs. To compare two ways of serving, make them arms of "
    "one experiment (symmlib serve)."
)
WIDEST_NAME = 200  # bytes of a file's name; file systems take 255
DISAGREEMENTS = 3  # sizes that a sentence names


def compare(run_dirs: Sequence[Path], out: Path | None = None) -> Path:
    """Write one page with the runs in `run_dirs` side by side, and return its path; ratios are to the first of them.

    `out`: by default compare-<ids>.html beside the first run's `runs/`. Raises `UsageError` for fewer than two runs,
    the same one twice, a run that has nothing in common with the first (it says in what they differ), or an `out` that
    cannot be written or is no page of symmlib's.
    """
    runs = dict(zip(string.ascii_uppercase, _read(run_dirs), strict=False))
    out = Path(out) if out else _beside(runs["A"].path, [run.path.name for run in runs.values()])
    require_ours(out)
    mismatches = {label: differences.mismatches(runs["A"], run, label) for label, run in list(runs.items())[1:]}
    allreduce = unpaired.beside(
        {label: unpaired.allreduce_times(run.tables["allreduce_summary"]) for label, run in runs.items()},
        unpaired.ALLREDUCE_KEY,
        {label: found["allreduce"] for label, found in mismatches.items()},
    )
    serving = unpaired.beside(
        {label: differences.serving_times(runs["A"], run) for label, run in runs.items()},
        unpaired.SERVING_KEY,
        {label: found["serving"] for label, found in mismatches.items()},
    )
    serving = serving[serving.metric.isin(["ttft", "tpot"])]
    for label in mismatches:
        _require_common(runs, label, allreduce, serving)
    differ, agree = differences.table(list(runs.values()))
    columns = ["", *runs]
    html = environment().get_template("compare.html").render(
        runs=[_head(label, run, out) for label, run in runs.items()],
        unpaired=UNPAIRED,
        notices=[notice for found in mismatches.values() for notice in found["notices"]],
        banners=_banners(runs),
        sentences=[text for label in mismatches for text in _sentences(label, runs, allreduce, serving)],
        differ=Table("What is known to differ", columns, [_first_in_grey(row) for row in differ], wordy=True),
        agree=Table("What is the same in all", columns, [row[:2] + [""] * (len(row) - 2) for row in agree], wordy=True),
        plots=_plots(allreduce),
        allreduce=_allreduce_tables(allreduce, list(runs)),
        serving=_serving_tables(serving, list(runs)),
    )  # fmt: skip
    return write_text(out, html)


def _read(run_dirs: Sequence[Path]) -> list[Contents]:
    places = [Path(place) for place in run_dirs]
    if len(places) < 2:
        raise UsageError(f"a comparison needs at least two runs, not {len(places)}.")
    if len(places) > len(string.ascii_uppercase):
        raise UsageError(f"{len(places)} runs are more than one page can show; at most {len(string.ascii_uppercase)}.")
    resolved = [place.resolve() for place in places]
    for place in places:
        if resolved.count(place.resolve()) > 1:
            raise UsageError(f"{place} is named twice. A run beside itself shows nothing.")
    return [contents.read(place) for place in resolved]


def _beside(first: Path, ids: list[str]) -> Path:
    name = f"compare-{'-and-'.join(ids)}.html"
    if len(name.encode()) > WIDEST_NAME:
        name = f"compare-{ids[0][:80]}-and-{len(ids) - 1}-more-{digest(ids)[:8]}.html"
    return (first.parent.parent if first.parent.name == "runs" else first.parent) / name


def _require_common(runs: dict[str, Contents], label: str, allreduce: pd.DataFrame, serving: pd.DataFrame) -> None:
    if unpaired.common(allreduce, label).empty and unpaired.common(serving, label).empty:
        first, run = runs["A"], runs[label]
        raise UsageError(
            f"{run.path.name} has nothing that could stand beside {first.path.name}: "
            f"{differences.in_words(first, run)}."
        )


def _head(label: str, run: Contents, page: Path) -> dict:
    """What the page says of one run at its top: how it judged itself."""
    try:
        answer = sections.answer(run)
    except Exception as error:  # whatever is odd about the numbers of one run costs no other its place here
        answer = {"headline": f"{NO_ANSWER}: {type(error).__name__}: {error}", "certainty": ""}
    beside = run.path.parent == page.resolve().parent / "runs" and (run.path / "index.html").is_file()
    return {
        "label": label,
        "id": run.path.name,
        "link": f"runs/{run.path.name}/index.html" if beside else "",
        "headline": answer["headline"],
        "certainty": answer["certainty"],
        "status": run.manifest["status"],
        "machine": contents.machine(run.manifest),
        "started": contents.when(run.manifest["started"]),
    }


def _banners(runs: dict[str, Contents]) -> list[str]:
    marked = [label for label, run in runs.items() if run.banner]
    return [f"{words.listed(marked)}: {words.ONE_GPU_BANNER}"] if marked else []


def _sentences(label: str, runs: dict, allreduce: pd.DataFrame, serving: pd.DataFrame) -> list[str]:
    """What run `label` shows beside A, in numbers and without a judgement."""
    said = []
    for what, rows in (("All-reduce", allreduce), ("Serving", serving)):
        if runs["A"].tables[TABLE[what]] is None or runs[label].tables[TABLE[what]] is None:
            lacking = [name for name in ("A", label) if runs[name].tables[TABLE[what]] is None]
            said.append(f"{what}: nothing to lay side by side, {words.listed(lacking)} has no results of it.")
            continue
        both = unpaired.common(rows, label)
        ratios = both.ratio.dropna()
        if not both.empty and ratios.empty:
            reasons = words.listed(dict.fromkeys(note for note in both.note if note) or ["A's own numbers are void"])
            said.append(
                f"{what}: NOT in ratio ({reasons}). The {len(both)} rows that A and {label} share are shown only."
            )
        elif not both.empty:
            rest = len(both) - len(ratios)
            said.append(
                f"{what}: in {len(ratios)} rows that both measured, {label} took "
                f"{words.ratio(words.geometric_mean(ratios))} times as long as A in the geometric mean "
                f"({words.span(ratios, words.ratio)}), unpaired."
                + (f" {rest} more are shown without a ratio." if rest else "")
            )
    said += _routes_alike(label, allreduce)
    return said


TABLE = {"All-reduce": "allreduce_summary", "Serving": "serving_summary"}


def _routes_alike(label: str, rows: pd.DataFrame) -> list[str]:
    """At how many sizes the same backend is the fastest, among those that both runs measured."""
    both = unpaired.common(rows, label)
    if both.empty or both.backend.nunique() < 2:
        return []
    place = ["world_size", "dtype", "mode", "bytes"]
    there = both[unpaired.ALLREDUCE_KEY]
    best = {}
    for run in (rows.run.iloc[0], label):
        times = rows[rows.run == run].merge(there)
        best[run] = times.loc[times.groupby(place).value.idxmin()].set_index(place).backend
    first, other = best.values()
    changed = first[first != other]
    if changed.empty:
        return [f"The fastest backend is the same in A and {label} at all {len(first)} sizes."]
    shown = "; ".join(
        f"{format_size(int(key[3]))} on {key[0]} ranks: {name} in A, {other[key]} in {label}"
        for key, name in list(changed.items())[:DISAGREEMENTS]
    )
    more = f"; and {len(changed) - DISAGREEMENTS} more" if len(changed) > DISAGREEMENTS else ""
    return [f"The fastest backend is the same at {len(first) - len(changed)} of {len(first)} sizes ({shown}{more})."]


def _plots(allreduce: pd.DataFrame) -> list:
    drawn = (
        allreduce[allreduce.ratio.notna() & (allreduce.run != allreduce.run.iloc[0])] if len(allreduce) else allreduce
    )
    return [
        plot(f"unpaired-{label}", figures.unpaired_ratios, rows, label)
        for label, rows in drawn.groupby("run", sort=False)
    ]


def _allreduce_tables(rows: pd.DataFrame, labels: list[str]) -> list[Table]:
    made = []
    for (ranks, dtype, mode), here in rows.groupby(["world_size", "dtype", "mode"], sort=True):
        name = f"{ranks} ranks, {dtype}, {mode}"
        lines = [
            [backend, unbroken(format_size(int(nbytes))), *_side_by_side(cells, labels, words.microseconds)]
            for (backend, nbytes), cells in here.groupby(["backend", "bytes"], sort=True)
        ]
        caption = f"{name}: median time of one all-reduce in each run, and its ratio to A's"
        made.append(_table(caption, ["backend", "size"], lines, labels, name))
    return made


def _serving_tables(rows: pd.DataFrame, labels: list[str]) -> list[Table]:
    made = []
    for (tp, qps), here in rows.groupby(["tp", "qps"], sort=True):
        name = f"TP={tp:g}, QPS {qps:g}"
        lines = [
            [arm, unbroken(f"{statistic} {metric.upper()}"), *_side_by_side(cells, labels, words.milliseconds)]
            for (metric, statistic, arm), cells in here.groupby(["metric", "statistic", "arm"], sort=False)
        ]
        caption = f"{name}: mean over each run's blocks, and its ratio to A's"
        made.append(_table(caption, ["arm", "what"], lines, labels, name))
    return made


def _table(caption: str, first: list[str], lines: list[list[str]], labels: list[str], name: str) -> Table:
    columns = [
        *first,
        *(column for label in labels for column in ([label] if label == "A" else [label, f"{label} / A"])),
    ]
    return Table(caption, columns, lines, frozenset(range(2, len(columns))), name=name)


def _side_by_side(cells: pd.DataFrame, labels: list[str], show) -> list[str]:
    """Time in A, in grey; then time and ratio of each other run, or in place of the ratio why there is none."""
    by_run = cells.set_index("run")
    found = []
    for label in labels:
        row = by_run.loc[label]
        value = show(row.value) if pd.notna(row.value) else "–"
        note = row.note if pd.notna(row.value) else ""
        if label == labels[0]:
            found.append(_grey(f"{value} ({note})" if note else value))
        else:
            found += [value, words.ratio(row.ratio) if pd.notna(row.ratio) else _grey(note or "–")]
    return found


def _first_in_grey(row: list[str]) -> list[str]:
    return [row[0], _grey(row[1]), *row[2:]]


def _grey(text: str) -> Markup:
    return Markup('<span class="quiet">{}</span>').format(escape(text))
