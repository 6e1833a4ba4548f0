"""How much of a change in TTFT and TPOT the all-reduce explains: predicted from its times alone, beside measured.

Used by `symmlib.serving.prediction`, which gathers a run's files; `explained` puts it in words. pandas in, pandas out.

A step of a server reduces `calls_per_step` tensors of one size: its tokens times the model's hidden size. So a trace
of calls by size is a list of steps. Each step of the *baseline's* trace is priced twice, with the baseline's backend
and with the treatment's, by the micro-benchmark's median times; the difference is what the all-reduce alone would
change. Both arms get the same steps, because a faster arm also meets smaller batches: that is a consequence, and with
the steps of its own it would count as if the all-reduce had been faster than it is. The treatment's backend at a size
is what its own trace says, at the nearest size that it met.

What this leaves out:
- A step with fewer tokens than a prompt counts as one of decoding requests, one token each; one with as many holds
  whole prompts, and the rest of its tokens are of decoding requests that wait for it (chunked prefill mixes both so). A
  prompt that was split over several steps is not recognised, nor one that a cached prefix made short.
- Queueing: a request that waits for others waits less when each is faster, so TTFT under load may change by more.
- A server's trace is over all its rates, warm-up and greedy requests included: one prediction for all QPS. What vLLM
  tries out before the first request is in it, too; its one step of as many tokens as it may ever get is left out.
- Ranks of a server arrive at an all-reduce at different times and share their cores or GPU with other work; those of
  the micro-benchmark meet at once and alone. What asking the router costs is not priced. Nor is it known whether the
  machine was as busy when the all-reduce was timed as when it served: a prediction is as far off as those times.
- The prediction is of a mean. It stands beside the measured mean and the measured median.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from symmlib.analysis import words
from symmlib.analysis.fastest import usable
from symmlib.analysis.serving import t_interval

METRICS = ("ttft", "tpot")
STATISTICS = ("median", "mean")
CALL_COLUMNS = ["tp", "arm", "block", "backend", "bytes", "dtype", "calls"]  # of rank 0 of each server
STEP_COLUMNS = ["bytes", "steps", "prefilling", "decoding"]
PREDICTED_COLUMNS = ["tp", "baseline", "treatment", "metric", "predicted_ms", "note"]
PREDICTION_COLUMNS = [
    "tp", "qps", "metric", "statistic", "baseline", "treatment", "predicted_ms", "measured_ms", "measured_low_ms",
    "measured_high_ms", "explained", "note",
]  # fmt: skip
ITEMSIZE = {"bfloat16": 2, "float16": 2, "float32": 4}
A_PROMPT = 0.9  # of `input_len`: a random prompt may read back as a token more or less
ODD_CALLS = 0.02  # the share of calls that may not come in whole steps: a server that is ended is ended in one
FORESEEN = 0.01  # of steps outside the sizes that were timed; more are mentioned


class _NoPrediction(Exception):
    """There is none, for this reason."""


def predict(
    calls: pd.DataFrame,
    times: pd.DataFrame | None,
    pairs: Iterable[tuple[str, str]],
    *,
    hidden_size: int,
    calls_per_step: int,
    input_len: int,
    mode: str,
    one_gpu: bool = False,
) -> pd.DataFrame:
    """Predicted TTFT and TPOT of treatment − baseline, one row per (tp, baseline, treatment, metric) of `calls`.

    `calls`: CALL_COLUMNS; `times`: the rows of allreduce_summary.csv; `hidden_size` of the model in elements, whose
    all-reduces are `calls_per_step` (2 · layers + 1 for vLLM at TP>1, which reduces the embedding, too); `input_len` in
    tokens. `mode`: "eager", or "graph" where CUDA graphs ran; then `calls` must count their replays (else it has no
    column `replayed`), and steps have the graphs' sizes, to which vLLM rounds up. `one_gpu`: the servers' ranks shared
    one GPU; they and the timed ones must have that in common.

    `predicted_ms` is NaN where there is no prediction, and `note` says why; else `note` says what is odd about it.
    """
    rows = []
    for tp in calls["tp"].unique():
        here = calls[calls["tp"] == tp]
        for baseline, treatment in pairs:
            try:
                if mode == "graph" and not (here.get("replayed", pd.Series(dtype=float)) > 0).any():
                    raise _NoPrediction("the servers used CUDA graphs, and their traces count no replays")
                steps = _steps_of(here, baseline, hidden_size, calls_per_step, input_len)
                alike = _alike(times, int(tp), mode, one_gpu)
                one, other = (_priced(steps, here, arm, alike, int(tp), mode) for arm in (baseline, treatment))
                ttft_ms, tpot_ms = means_ms(steps, other["time_us"] - one["time_us"], calls_per_step)
                note = _outside(steps, one["outside"] | other["outside"])
            except _NoPrediction as reason:
                ttft_ms, tpot_ms, note = np.nan, np.nan, str(reason)
            rows += [
                (tp, baseline, treatment, metric, value, note)
                for metric, value in zip(METRICS, (ttft_ms, tpot_ms), strict=True)
            ]
    return pd.DataFrame(rows, columns=PREDICTED_COLUMNS)


def steps_of(calls: pd.DataFrame, row_bytes: int, calls_per_step: int, input_len: int) -> pd.DataFrame:
    """The steps of one server's `calls` (columns `bytes`, `calls`): STEP_COLUMNS, a row a size.

    `prefilling` and `decoding` are the requests that each such step holds of either kind, `row_bytes` the bytes of one
    token. A single step of more than twice the tokens of any other is left out: no request had it.
    """
    sizes = calls.groupby("bytes")["calls"].sum().sort_index()
    if len(sizes) > 1 and sizes.iloc[-1] <= calls_per_step and sizes.index[-1] > 2 * sizes.index[-2]:
        sizes = sizes.iloc[:-1]
    steps = sizes.to_numpy() / calls_per_step
    tokens = sizes.index.to_numpy() / row_bytes
    prefilling = np.maximum(tokens // input_len, tokens >= A_PROMPT * input_len)
    decoding = np.maximum(tokens - prefilling * input_len, 0)
    return pd.DataFrame({"bytes": sizes.index, "steps": steps, "prefilling": prefilling, "decoding": decoding})


def time_us(times: pd.DataFrame, sizes: np.ndarray) -> np.ndarray:
    """One backend's time at each of `sizes`, interpolated between its measured ones (`bytes`, `median_us`), log by log.

    Outside the measured sizes it is the time at the nearest of them: below that is nearly so, because latency is what
    counts there; above it is too short, and so a difference is rather too small.
    """
    known = times.sort_values("bytes")
    logs = np.log(known["bytes"].to_numpy(dtype=float)), np.log(known["median_us"].to_numpy(dtype=float))
    return np.exp(np.interp(np.log(np.asarray(sizes, dtype=float)), *logs))


def means_ms(steps: pd.DataFrame, per_call_us: pd.Series, calls_per_step: int) -> tuple[float, float]:
    """What `per_call_us`, one value a row of `steps`, comes to in TTFT and in TPOT, in ms.

    TTFT meets the step that holds its prompt, TPOT every step in which the request decodes: means over the steps,
    weighted by the requests that meet them.
    """
    per_step_ms = per_call_us.to_numpy() * calls_per_step / 1000
    return tuple(
        float(np.average(per_step_ms, weights=weights)) if weights.sum() > 0 else np.nan
        for weights in (steps["steps"] * steps["prefilling"], steps["steps"] * steps["decoding"])
    )


def measured(
    summary: pd.DataFrame, pairs: Iterable[tuple[str, str]], invalid: Mapping[tuple, str] | None = None
) -> pd.DataFrame:
    """Measured differences treatment − baseline in ms, out of the rows of serving_summary.csv.

    Per cell, metric and statistic: `measured_ms`, the mean over blocks, and its 95 % t interval `measured_low_ms`,
    `measured_high_ms` (NaN below two blocks), of this cell alone. `invalid` maps (tp, qps, baseline, treatment) to the
    reason why nothing counts there; such a row has no values, and the reason in `note`.
    """
    rows = []
    asked = summary[summary["metric"].isin(METRICS) & summary["statistic"].isin(STATISTICS)]
    for key, group in asked.groupby(["tp", "qps", "metric", "statistic"], sort=False):
        values = group.pivot(index="block", columns="arm", values="value_ms")
        for pair in pairs:
            if not set(pair) <= set(values):
                continue
            difference = (values[pair[1]] - values[pair[0]]).dropna().to_numpy()
            reason = (invalid or {}).get((*key[:2], *pair), "")
            if reason or not len(difference):
                rows.append((*key, *pair, np.nan, np.nan, np.nan, reason or "no block has both arms"))
            else:
                rows.append((*key, *pair, difference.mean(), *t_interval(difference), ""))
    return pd.DataFrame(rows, columns=[*PREDICTION_COLUMNS[:6], *PREDICTION_COLUMNS[7:10], "note"])


def beside(predicted: pd.DataFrame, differences: pd.DataFrame) -> pd.DataFrame:
    """What `predict` and `measured` gave, as one table (PREDICTION_COLUMNS), a row for each measured difference.

    `explained` is predicted over measured, where the measured interval leaves 0 out: below 1 something else changed,
    too, above 1 the prediction is too large, below 0 it has the wrong sign.
    """
    keys = ["tp", "baseline", "treatment", "metric"]
    table = differences.merge(predicted.rename(columns={"note": "why"}), on=keys, how="left")
    table["why"] = table["why"].fillna("no trace of this pair was found")
    told = (table["measured_low_ms"] > 0) | (table["measured_high_ms"] < 0)
    table["explained"] = (table["predicted_ms"] / table["measured_ms"]).where(told)
    notes = zip(table["note"], table["why"], strict=True)
    table["note"] = ["; ".join(note for note in both if note) for both in notes]
    return table[PREDICTION_COLUMNS]


def _steps_of(calls: pd.DataFrame, arm: str, hidden_size: int, calls_per_step: int, input_len: int) -> pd.DataFrame:
    """The steps of all servers of `arm`; raises `_NoPrediction` for calls that are not those of such a model."""
    mine = calls[calls["arm"] == arm]
    row_bytes = hidden_size * ITEMSIZE.get(_dtype(mine, arm), 0)
    found = []
    for _, server in mine.groupby("block"):
        sizes = server.groupby("bytes")["calls"].sum()
        odd = sizes[sizes.index % row_bytes != 0].sum() + (sizes % calls_per_step).sum()
        if odd > max(ODD_CALLS * sizes.sum(), calls_per_step):
            raise _NoPrediction(
                f"{odd} of {sizes.sum()} all-reduces of {arm} do not come {calls_per_step} a step in rows of "
                f"{row_bytes} bytes, as those of its model should"
            )
        whole = server[server["bytes"] % row_bytes == 0]
        found.append(steps_of(whole, row_bytes, calls_per_step, input_len))
    steps = pd.concat(found)
    if not (steps["prefilling"] > 0).any():
        raise _NoPrediction(
            f"no step of {arm} held a whole prompt of {input_len} tokens: prompts were split over steps, or their "
            "beginnings were cached, so that steps which hold them cannot be told from others"
        )
    return steps.groupby(["bytes", "prefilling", "decoding"], as_index=False)["steps"].sum()


def _dtype(calls: pd.DataFrame, arm: str) -> str:
    if calls.empty:
        raise _NoPrediction(
            f"{arm} left no trace, so that the sizes of its all-reduces and what served them are unknown"
        )
    dtype = str(calls.groupby("dtype")["calls"].sum().idxmax())
    if dtype not in ITEMSIZE:
        raise _NoPrediction(f"the all-reduces of {arm} were of dtype {dtype}, not of {', '.join(ITEMSIZE)}")
    return dtype


def _alike(times: pd.DataFrame | None, tp: int, mode: str, one_gpu: bool) -> pd.DataFrame:
    """Of `times` those that were taken as the servers run: on `tp` ranks, in `mode`, with a GPU each or `one_gpu`."""
    if times is None or times.empty:
        raise _NoPrediction("no all-reduce was timed")
    here = usable(times).query("world_size == @tp and mode == @mode")
    shared = bool(words.banner(here.get("device", ())))
    if shared and not one_gpu:
        raise _NoPrediction(f"all-reduces were timed on ranks that shared one GPU: {words.ONE_GPU_BANNER}")
    if one_gpu and len(here) and not shared:
        raise _NoPrediction("all-reduces were timed on ranks with a GPU each, and the servers' ranks shared one")
    return here


def _priced(
    steps: pd.DataFrame, calls: pd.DataFrame, arm: str, times: pd.DataFrame, tp: int, mode: str
) -> pd.DataFrame:
    """For each of `steps`: `time_us` of one of its all-reduces in `arm`; is its size `outside` the timed ones?"""
    mine = calls[calls["arm"] == arm]
    dtype = _dtype(mine, arm)
    here = times[times["dtype"] == dtype]
    counts = mine.groupby(["bytes", "backend"])["calls"].sum().reset_index().sort_values("calls", kind="stable")
    served = counts.groupby("bytes")["backend"].last()  # the one that served most calls of a size
    distance = np.abs(np.log(steps["bytes"].to_numpy()[:, None] / served.index.to_numpy()[None, :]))
    backends = served.to_numpy()[distance.argmin(axis=1)]
    priced = pd.DataFrame({"time_us": np.nan, "outside": False}, index=steps.index)
    for backend in dict.fromkeys(backends):
        timed, those = here[here["backend"] == backend], backends == backend
        if timed.empty:
            raise _NoPrediction(
                f"{backend}, which served {arm}, was not timed on {tp} ranks in {dtype} "
                f"{'in' if mode == 'graph' else 'without'} CUDA graphs"
            )
        sizes = steps["bytes"].to_numpy()[those]
        priced.loc[those, "time_us"] = time_us(timed, sizes)
        priced.loc[those, "outside"] = (sizes < timed["bytes"].min()) | (sizes > timed["bytes"].max())
    return priced


def _outside(steps: pd.DataFrame, outside: pd.Series) -> str:
    share = steps["steps"][outside].sum() / steps["steps"].sum()
    if share <= FORESEEN:
        return ""
    return f"{share:.0%} of the steps have sizes beyond those that were timed, and are priced as the nearest of them"
