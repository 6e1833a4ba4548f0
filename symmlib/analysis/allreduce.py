"""Samples of the micro-benchmark to one row per backend and size; pandas in, pandas out, no torch."""

import re

import pandas as pd

from symmlib.analysis.crossovers import Timings, ratio
from symmlib.analysis.fastest import usable
from symmlib.sizes import format_size

SETTING = ["world_size", "dtype", "mode"]
POINT = ["backend", *SETTING, "bytes"]
SUMMARY_COLUMNS = [
    *POINT,
    "launches",
    "median_us",
    "p99_us",
    "algbw_gbps",
    "busbw_gbps",
    "max_abs_error",
    "wrong",
    "bitwise_equal_across_ranks",
    "status",
    "reason",
    "samples",
    "device",
    "multicast",
]
AGAINST_COLUMNS = [*SETTING, "bytes", "peer", "ours", "peer_us", "ours_us", "ratio", "ci_low", "ci_high", "launches"]
VLLM_WAYS = ("vllm/symm_mem", "vllm/shm")  # how vLLM itself would do it: with symmetric memory, and on the CPU
OTHERS = r"vllm/|nccl|gloo"  # begin the names of what somebody else wrote (DESIGN: peers)
SAMPLES_FOR_P99 = 1000  # so that at least 10 lie beyond it, the rule for every percentile of the suite


def summarize(samples: pd.DataFrame, checks: pd.DataFrame) -> pd.DataFrame:
    """One row per (backend, world size, dtype, mode, bytes) of `checks`, in the order in which those first appear.

    `samples`: one row per timed all-reduce (`launch`, `round`, the point's columns, `iteration`, `time_us`: the maximum
    over ranks). `checks`: one row per launch and point (`status`, `reason`, `wrong`, `max_abs_error`,
    `bitwise_equal_across_ranks`, `device`, `multicast`).

    The launch is the unit: `median_us` is the median over launches of each launch's median. `p99_us` is that of all
    samples pooled, and empty below 1000 `samples`, where fewer than 10 lie beyond it. `algbw_gbps` is bytes per rank
    over the median, in 1e9 bytes/s; `busbw_gbps` is algbw · 2(n−1)/n, as in nccl-tests. `wrong` counts elements over
    all launches and ranks, `max_abs_error` is the largest. `status` is the worst of all launches (`failed`, then
    `unavailable`, then `ok`) with that launch's reason; times stand wherever there are any.
    """
    rows = checks.groupby(POINT, sort=False).apply(_checked, include_groups=False).reset_index()
    samples = samples.astype({"time_us": float})
    times = samples.groupby([*POINT, "launch"])["time_us"].median().groupby(POINT)
    pooled = samples.groupby(POINT)["time_us"]
    timed = pd.DataFrame({"launches": times.size(), "median_us": times.median(), "samples": pooled.size()})
    timed["p99_us"] = pooled.quantile(0.99).where(timed["samples"] >= SAMPLES_FOR_P99)
    rows = rows.merge(timed.reset_index(), on=POINT, how="left")
    rows = rows.fillna({"launches": 0, "samples": 0})
    rows = rows.astype({"launches": int, "samples": int, "wrong": "Int64", "bitwise_equal_across_ranks": "boolean"})
    rows["algbw_gbps"] = rows["bytes"] / rows["median_us"] / 1e3
    rows["busbw_gbps"] = rows["algbw_gbps"] * 2 * (rows["world_size"] - 1) / rows["world_size"]
    return rows[SUMMARY_COLUMNS]


def timed(samples: pd.DataFrame, summary: pd.DataFrame) -> pd.DataFrame:
    """The `samples` of points whose times count (`fastest.usable` of `summary`), with their `device`, `multicast`."""
    return samples.merge(usable(summary)[[*POINT, "device", "multicast"]], on=POINT)


def medians(summary: pd.DataFrame) -> pd.DataFrame:
    """`median_us` for reading: a row per size, a column per backend; empty where nothing was timed.

    Of several world sizes, dtypes or modes, sizes stand below each other, with those before the size.
    """
    differ = [name for name in SETTING if summary[name].nunique() > 1]
    table = summary.pivot(index=[*differ, "bytes"], columns="backend", values="median_us")
    table = table[list(summary["backend"].unique())].rename(index=format_size, level="bytes")
    return table.rename_axis(index=[*_named(differ), "median µs"])


def correctness(summary: pd.DataFrame) -> pd.DataFrame:
    """A row per backend (of each world size, if several), all sizes together: was every sum right, how exact, the same
    on all ranks, and if not, why."""
    by = [*(["world_size"] if summary["world_size"].nunique() > 1 else []), "backend"]
    rows = summary.assign(why=summary["reason"].replace("", pd.NA)).groupby(by, sort=False)
    table = rows.agg(
        status=("status", lambda of_sizes: "ok" if (of_sizes == "ok").all() else ", ".join(of_sizes.unique())),
        wrong=("wrong", lambda of_sizes: of_sizes.sum(min_count=1)),
        max_abs_error=("max_abs_error", "max"),
        bitwise_equal_across_ranks=(
            "bitwise_equal_across_ranks",
            lambda of_sizes: of_sizes.all() if of_sizes.notna().any() else None,
        ),
        why=("why", lambda of_sizes: next(iter(of_sizes.dropna()), "")),
    )
    return table.rename_axis(index=_named(by))


def against(times: pd.DataFrame, peer: str = "") -> pd.DataFrame:
    """How much longer `peer` takes than the best of ours, a row per setting and size (`AGAINST_COLUMNS`).

    `times`: samples as `timed` gives them; or a summary, whose medians give ratios without intervals. `peer`: a
    backend's name; empty: of `VLLM_WAYS` the first that was measured. `ours` is the fastest, by its median over
    launches, of those that are not vLLM's, NCCL's or gloo. `ratio` is exp of the mean over launches of
    ln(peer's median / ours), with its 95 % t interval. Only launches that timed both count, and only sizes that have
    such a launch have a row.
    """
    if "time_us" not in times:
        times = usable(times).assign(launch=1).rename(columns={"median_us": "time_us"})
    peer = peer or next((name for name in VLLM_WAYS if (times["backend"] == name).any()), "")
    rows = []
    for key, here in times.groupby([*SETTING, "bytes"]):
        launches = {name: set(samples["launch"]) for name, samples in here.groupby("backend")}
        own = {name for name in launches if not re.match(OTHERS, name) and launches[name] & launches.get(peer, set())}
        if own:
            medians_us = here.groupby(["backend", "launch"])["time_us"].median().groupby("backend").median()
            ours = medians_us[sorted(own)].idxmin()
            compared = ratio(Timings.of(here[here["backend"].isin([ours, peer])]), peer, ours)
            paired = len(launches[ours] & launches[peer])
            rows.append((*key, peer, ours, medians_us[peer], medians_us[ours], *compared, paired))
    return pd.DataFrame(rows, columns=AGAINST_COLUMNS)


def _named(levels: list[str]) -> list[str]:
    return ["ranks" if level == "world_size" else level for level in levels]


def _checked(launches: pd.DataFrame) -> pd.Series:
    worst = launches.iloc[launches["status"].map({"failed": 0, "unavailable": 1, "ok": 2}).argmin()]
    known = launches.dropna(subset=["wrong"])
    equal = known["bitwise_equal_across_ranks"].astype(bool)
    return pd.Series(
        {
            "max_abs_error": known["max_abs_error"].astype(float).max(),
            "wrong": int(known["wrong"].sum()) if len(known) else pd.NA,
            "bitwise_equal_across_ranks": bool(equal.all()) if len(known) else pd.NA,
            **worst[["status", "reason", "device", "multicast"]],
        }
    )
