"""Several runs side by side: the times that each of them measured of the same thing, and their ratios.

Runs are not blocks of one experiment. Whatever changed between them stands in these ratios too, and nothing here says
how large that is: so there are no intervals, no p-values and no verdicts between runs, only numbers side by side.
"""

from collections.abc import Mapping

import pandas as pd

from symmlib.analysis.fastest import usable

ALLREDUCE_KEY = ["world_size", "dtype", "mode", "backend", "bytes"]
SERVING_KEY = ["tp", "qps", "arm", "metric", "statistic"]
INVALID = "a gate says invalid"


def allreduce_times(summary: pd.DataFrame | None) -> pd.DataFrame:
    """`ALLREDUCE_KEY`, `value` (median, µs), `on` (the routed device, where the run wrote it down) and an empty `note`.

    `summary` as `allreduce_summary.csv`; rows whose times do not count, such as those with wrong sums, are left out.
    """
    if summary is None:
        return pd.DataFrame(columns=[*ALLREDUCE_KEY, "value", "on", "note"])
    rows = usable(summary)
    on = rows["device"].fillna("") if "device" in rows else ""
    return rows[ALLREDUCE_KEY].assign(value=rows.median_us, on=on, note="").drop_duplicates(ALLREDUCE_KEY)


def serving_times(summary: pd.DataFrame | None, comparison: pd.DataFrame | None) -> pd.DataFrame:
    """`SERVING_KEY`, `value` (mean over blocks, ms), an empty `on`, and as `note` `INVALID` where a gate failed.

    `summary` and `comparison` as `serving_summary.csv` and `comparison.csv`. A comparison that is invalid voids the
    numbers of both its arms in that cell, as long as no valid one has them.
    """
    if summary is None:
        return pd.DataFrame(columns=[*SERVING_KEY, "value", "on", "note"])
    means = summary[summary.value_ms.notna()].groupby(SERVING_KEY, as_index=False, sort=False).value_ms.mean()
    void = _void(comparison)
    notes = [INVALID if (row.tp, row.qps, row.arm, row.metric) in void else "" for row in means.itertuples()]
    return means.rename(columns={"value_ms": "value"}).assign(on="", note=notes)


def beside(times: Mapping[str, pd.DataFrame], key: list[str], why_not: Mapping[str, str]) -> pd.DataFrame:
    """All of `times` (run -> what the functions above gave), one row per `key` and run, in the order of the runs.

    Columns: `key`, `run`, `value` (NaN where the run has none), `ratio` to the first run's value, and `note`: why there
    is a value and no ratio. `why_not`: runs whose numbers are of something else than the first run's, with the reason.
    """
    first, *_ = times
    keys = pd.concat([table[key] for table in times.values()]).drop_duplicates().sort_values(key, kind="stable")
    base = keys.merge(times[first], on=key, how="left")
    sides = []
    for run, table in times.items():
        rows = keys.merge(table, on=key, how="left").assign(run=run)
        rows["note"] = rows.note.fillna("").mask(
            rows.value.notna() & (why_not.get(run, "") != ""), why_not.get(run, "")
        )
        elsewhere = rows.value.notna() & base.value.notna() & (rows.on != base.on)
        rows["note"] = rows.note.mask(elsewhere & (rows.note == ""), "measured on " + rows.on.fillna("").astype(str))
        void = rows.note.ne("") | base.note.fillna("").ne("")
        rows["ratio"] = (rows.value / base.value).where(~void)
        sides.append(rows[[*key, "run", "value", "ratio", "note"]])
    return pd.concat(sides, ignore_index=True)


def common(rows: pd.DataFrame, run: str) -> pd.DataFrame:
    """Of `beside`'s rows those of `run` that the first run measured too, in ratio or not."""
    first = rows.run.iloc[0]
    there = rows[(rows.run == first) & rows.value.notna()].drop(columns=["run", "value", "ratio", "note"])
    return rows[(rows.run == run) & rows.value.notna()].merge(there)


def _void(comparison: pd.DataFrame | None) -> set[tuple]:
    """(tp, qps, arm, metric) of the arms that are in invalid comparisons only."""
    if comparison is None:
        return set()
    sides = pd.concat([comparison.assign(arm=comparison[side]) for side in ("baseline", "treatment")])
    invalid = sides.verdict.eq("invalid").groupby([sides.tp, sides.qps, sides.arm, sides.metric]).all()
    return set(invalid[invalid].index)
