"""The sections of the page on the all-reduce alone: its times, how they compare, and the routes that follow.

Called by `page`, as `sections` is. Where ranks shared a GPU, every caption says so.
"""

import re

import pandas as pd

from symmlib.analysis import alpha_beta, words
from symmlib.analysis.allreduce import SETTING, VLLM_WAYS, against
from symmlib.report import contents, figures
from symmlib.report.contents import Contents
from symmlib.report.figures.settings import SIZE, setting_words
from symmlib.report.parts import Table, plot, unbroken
from symmlib.sizes import format_size


def allreduce(run: Contents) -> dict:
    """`plots` (time with the router's path, bus bandwidth, and the share of the bound where there is one), and
    `against`: the table of ratios to vLLM's way, where that was measured."""
    summary = run.tables["allreduce_summary"]
    if summary is None:
        return {"plots": [], "against": None}
    source = "results/allreduce_summary.csv"
    plots = [
        plot("latency", figures.latency, summary, run.routes, tables=_medians(run), source=source),
        plot("busbw", figures.bus_bandwidth, summary, run.routes, source=source),
    ]
    if alpha_beta.bounds(summary, contents.gpu_names(run.manifest)).share.notna().any():
        plots.append(plot("roofline", figures.roofline, summary, run.manifest))
    return {"plots": plots, "against": _against_table(run)}


def not_run(run: Contents) -> list[tuple[str, str]]:
    """Backends that have no time somewhere, with the reason: what a reader would look for in vain."""
    summary = run.tables["allreduce_summary"]
    if summary is None:
        return []
    absent = summary[(summary.status != "ok") | summary.median_us.isna()]
    alike = [reason.replace(f"{size} bytes", "") for reason, size in zip(absent.reason, absent.bytes, strict=True)]
    found = []
    for (backend, status, _), rows in absent.groupby(["backend", "status", pd.Series(alike, absent.index)], sort=False):
        where, reason = _places(rows, summary[summary.backend == backend]), rows.reason.iloc[rows.bytes.argmin()]
        found.append((f"{backend}{where}", f"{status}: {_in_units(reason)}" if reason else status))
    return found


def routes(run: Contents) -> dict:
    """`plots` (which backend at which size) and the `table` that says the same."""
    if run.routes is None:
        return {"plots": [], "table": None, "cost": "", "has_regret": False}
    rows = [
        [
            unbroken(_in_units(row.sizes)),
            row.backend,
            f"{row.device}, {unbroken(f'{row.world_size} ranks')}, {row.dtype}, {row.mode}",
            _in_units(row.why).replace("95 %", unbroken("95 %")),
        ]
        for row in run.routes.itertuples()
    ]
    columns = ["message size", "backend", "for", "source"]
    plots = [
        plot("routes", figures.routes, run.routes, run.tables["allreduce_summary"], source=run.link("routing.toml"))
    ]
    regret, held_out = run.tables["regret"], run.tables["held_out"]
    if regret is not None and held_out is not None and len(regret):
        drawn = plot("held-out", figures.held_out, held_out, regret, run.routes, source=run.link("results/regret.csv"))
        plots.append(drawn)
    return {
        "plots": plots,
        "has_regret": len(plots) > 1,
        "table": Table(_caption("Routes", run), columns, rows, wordy=True),
        "cost": _router_cost(run),
    }


def _medians(run: Contents) -> list[Table]:
    """Median times, a table per setting: those too that no figure shows, because sums were wrong, say."""
    summary = run.tables["allreduce_summary"]
    ran = summary[summary.median_us.notna()]
    tables = []
    for (world_size, dtype, mode), rows in ran.groupby(SETTING, sort=False):
        names = list(dict.fromkeys(rows.backend))
        cells = rows.set_index(["bytes", "backend"])
        body = [
            [unbroken(format_size(int(size))), *(_time_cell(cells, (size, name)) for name in names)]
            for size in sorted(rows.bytes.unique())
        ]
        caption = f"Median time of one all-reduce in µs, by its size per rank; {world_size} ranks, {dtype}, {mode}"
        columns = [SIZE, *(f"{name}, µs" for name in names)]
        tables.append(Table(_caption(caption, run), columns, body, frozenset(range(1, len(columns)))))
    return tables


def _in_units(text: str) -> str:
    """`text` with its bytes as people say them: 'up to 1634012 B' -> 'up to 1.56 MiB'; the files have them exactly."""
    return re.sub(r"\b(\d{5,15}) (?:B|bytes)\b", lambda match: unbroken(words.size(int(match[1]))), text)


def _places(rows: pd.DataFrame, planned: pd.DataFrame) -> str:
    """' at 32 MiB on 4 and 8 ranks': which of a backend's `planned` rows these are; empty if they are all."""
    if len(rows) == len(planned):
        return ""
    ranks: dict[str, list[str]] = {}  # sizes -> the world sizes of which these are the rows
    for world_size, here in rows.groupby("world_size"):
        whole = len(here) == (planned.world_size == world_size).sum()
        sizes = words.listed(format_size(int(size)) for size in sorted(here.bytes.unique()))
        ranks.setdefault("" if whole else f" at {sizes}", []).append(str(world_size))
    everywhere = planned.world_size.nunique() == 1
    return ", ".join(
        f"{sizes}{'' if everywhere else f' on {words.listed(those)} ranks'}" for sizes, those in ranks.items()
    )


def _against_table(run: Contents) -> Table | None:
    """How much longer vLLM's way takes than the best of ours: a row per size, a column per setting."""
    summary = run.tables["allreduce_summary"]
    if not summary.backend.isin(VLLM_WAYS).any():
        return None
    samples = run.samples()
    compared = against(summary if samples is None else samples)
    if compared.empty:
        return None
    columns = {key: rows.set_index("bytes") for key, rows in compared.groupby(SETTING, sort=False)}
    body = [
        [unbroken(format_size(int(size))), *(_ratio_cell(rows, size) for rows in columns.values())]
        for size in sorted(compared.bytes.unique())
    ]
    launches = words.span(compared.launches, lambda count: f"{int(count)}")
    interval = f", with its 95 % interval over {launches} launches" if compared.ci_low.notna().any() else ""
    peer = compared.peer.iloc[0]
    caption = f"Time of {peer} over that of the best of ours, which is named{interval}; above 1 ours is faster"
    if any("–" in row for row in body):
        caption += f"; –: {peer} did not run there, or none of ours"
    return Table(
        _caption(caption, run),
        ["size", *(setting_words(key, compared) for key in columns)],
        body,
        wordy=len(columns) > 1,
    )


def _ratio_cell(rows: pd.DataFrame, size: int) -> str:
    if size not in rows.index:
        return "–"
    row = rows.loc[size]
    interval = f" ({words.ratio_interval(row.ci_low, row.ci_high, row.ratio)})" if pd.notna(row.ci_low) else ""
    return f"{unbroken(words.ratio(row.ratio) + interval)} {row.ours}"


def _time_cell(cells: pd.DataFrame, key: tuple) -> str:
    if key not in cells.index:
        return "–"
    row = cells.loc[key]
    doubt = "" if row.status == "ok" else f" ({row.status})"
    if pd.notna(row.wrong) and row.wrong > 0:
        doubt = f" ({int(row.wrong)} wrong)"
    digits = 0 if row.median_us >= 99.5 else 1 if row.median_us >= 0.995 else 2
    return f"{row.median_us:.{digits}f}{doubt}"


def _router_cost(run: Contents) -> str:
    """What asking the router costs, in a sentence; empty where that was not measured."""
    cost = run.tables["router_cost"]
    if cost is None or cost.empty:
        return ""
    settings = [setting_words(key, cost) for key, _ in cost.groupby(SETTING, sort=False)]
    if len(settings) > 1:
        ratios = words.span(cost.ratio, lambda ratio: f"{ratio:.2f}")
        sizes = words.listed(format_size(int(size)) for size in sorted(cost.bytes.unique()))
        told = f"{ratios} times as long as the backend that it picks, alone: at {sizes} on {words.listed(settings)}"
    else:
        told = words.listed(
            f"{row.ratio:.2f} times as long as {row.backend} alone at {format_size(int(row.bytes))}"
            + (f" (95 % {row.ci_low:.2f} to {row.ci_high:.2f})" if pd.notna(row.ci_low) else "")
            for row in cost.itertuples()
        )
    return f"An all-reduce through the router takes {told}. {run.banner}".strip()


def _caption(text: str, run: Contents) -> str:
    return f"{text}. {run.banner}" if run.banner else text
