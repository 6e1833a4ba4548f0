"""What the arms' latencies say: requests out of vLLM's result files, statistics per block, comparisons over blocks.

The block is the unit of every comparison, never the pooled request: requests of one server share its luck.

Latencies are vLLM's (`vllm bench serve`), in ms: `ttft` from sending a request to its first token; `e2el` to its
last; `tpot` = (e2el − ttft) / (output tokens − 1), one value a request; `itl` the gaps between a request's tokens, one
value a gap. Failed requests count in none of them.
"""

import itertools
import math
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from scipy import stats

METRICS = ("ttft", "tpot", "itl", "e2el")
PERCENTILES = {"p90": 90, "p95": 95, "p99": 99}
STATISTICS = ("mean", "median", *PERCENTILES)
BEYOND = 10  # requests that must lie beyond a percentile, else it is an anecdote
TOO_SMALL = "n too small"
NOT_RECORDED = "not recorded"  # such as single gaps by a load generator that keeps their mean only

TIERS = {"smoke": 1, "quick": 3, "standard": 6, "full": 10}  # blocks; smoke gives no verdict
MAX_BLOCKS = 20  # the exact test visits 2^blocks assignments of signs
DELTA = 0.025  # the band where no A/A experiment gives a `noise_floor`: half of the effect that six blocks are to find
LEAST_DELTA = 0.01  # few cells of two equal arms can agree by luck, and nobody changes a server for less than 1 %
CONFIDENCE = 0.95  # that of all intervals of a family together
NO_VERDICT = "none"  # what the column `verdict` says in tier smoke, which has no interval to read one off

REQUEST_COLUMNS = [
    "block", "arm", "tp", "qps", "request", "start_s", "input_tokens", "output_tokens", "ttft_ms", "tpot_ms", "e2el_ms",
    "error",
]  # fmt: skip
SUMMARY_COLUMNS = ["block", "arm", "tp", "qps", "metric", "statistic", "value_ms", "requests", "note"]
COMPARISON_COLUMNS = [
    "tp", "qps", "metric", "statistic", "baseline", "treatment", "ratio", "ci_low", "ci_high", "p_value", "blocks",
    "tier", "verdict", "note", "delta",
]  # fmt: skip
FLOOR_COLUMNS = ["metric", "statistic", "delta", "blocks", "cells"]
FAMILY = ["baseline", "treatment", "metric", "statistic"]  # what is asked in every cell: one question, many answers


def requests(result: Mapping) -> pd.DataFrame:
    """One row per request of a result that `vllm bench serve --save-detailed` wrote, in the order of sending.

    Columns: `request` (from 0), `start_s` (sent, counted from the first), `input_tokens`, `output_tokens`, `ttft_ms`,
    `tpot_ms`, `e2el_ms`, `error`. A failed request has an `error` and no latencies.
    """
    output_tokens = np.array(result["output_lens"])
    ttft_s, e2el_s = np.array(result["ttfts"], dtype=float), latencies_s(result)
    failed = output_tokens == 0
    with np.errstate(divide="ignore", invalid="ignore"):
        tpot_s = (e2el_s - ttft_s) / (output_tokens - 1)
    starts = np.array(result["start_times"])
    frame = pd.DataFrame(
        {
            "request": np.arange(len(starts)),
            "start_s": starts - starts.min(),
            "input_tokens": result["input_lens"],
            "output_tokens": output_tokens,
            "ttft_ms": np.where(failed, np.nan, ttft_s * 1000),
            "tpot_ms": np.where(output_tokens < 2, np.nan, tpot_s * 1000),
            "e2el_ms": np.where(failed, np.nan, e2el_s * 1000),
            "error": result["errors"],
        }
    )
    frame["error"] = frame["error"].astype(str).where(~failed | (frame["error"] != ""), "no tokens came back")
    return frame


def summarize(result: Mapping) -> pd.DataFrame:
    """Statistics of one result: `metric`, `statistic`, `value_ms`, `requests` (that succeeded), `note`.

    A percentile beyond which fewer than 10 requests lie has no value but the note "n too small"; for `itl` too, whose
    gaps are many but whose requests are the ones that vary independently.
    """
    frame = requests(result)
    values = {metric: frame[f"{metric}_ms"].dropna().to_numpy() for metric in ("ttft", "tpot", "e2el")}
    values["itl"] = np.array([gap * 1000 for gaps, tokens in zip(result["itls"], frame["output_tokens"], strict=True)
                              if tokens for gap in gaps])  # fmt: skip
    count = int((frame["output_tokens"] > 0).sum())
    rows = []
    for metric, statistic in itertools.product(METRICS, STATISTICS):
        enough = statistic not in PERCENTILES or count * (100 - PERCENTILES[statistic]) >= 100 * BEYOND
        value = _statistic(values[metric], statistic) if enough and len(values[metric]) else math.nan
        lacking = TOO_SMALL if len(values[metric]) or not count else NOT_RECORDED
        rows.append((metric, statistic, value, count, "" if not math.isnan(value) else lacking))
    return pd.DataFrame(rows, columns=SUMMARY_COLUMNS[4:])


def compare(
    summary: pd.DataFrame,
    pairs: Iterable[tuple[str, str]],
    *,
    tier: str = "full",
    delta: float | pd.DataFrame | Mapping[tuple[str, str], float] = DELTA,
    invalid: Mapping[tuple, str] | None = None,
) -> pd.DataFrame:
    """Compare (baseline, treatment) `pairs` over the blocks of `summary` (columns: SUMMARY_COLUMNS).

    Per block d = ln(treatment / baseline) of the statistic. `ratio` = exp(mean d), below 1 where the treatment is
    faster; `blocks` those that both arms completed; `tier` the one that these earn, at most `tier`. `invalid` maps
    (tp, qps, arm) to the reason why the arm's times there do not count.

    `delta`: one number, or one for each (metric, statistic): a mapping, or the frame that `noise_floor` gives; what is
    not in it is judged by DELTA. The column `delta` holds the one used.

    The cells of one (baseline, treatment, metric, statistic) are a family, judged together, so that many cells do not
    find by chance what one would not:
    `ci_low`, `ci_high`: a t interval over blocks at confidence 1 − 0.05 / cells (Bonferroni), so that with 95 % all
    intervals of the family cover their true ratios at once. `verdict` is read off this interval and the ratio.
    `p_value`: an exact two-sided sign-flip test of d = 0, adjusted by Holm over the family. It stands beside the
    verdict and does not enter it: 3 blocks cannot give less than 1/4, whatever the effect.
    Cells that a gate found invalid count too, which makes the others no bolder. In the tier `smoke` there is no
    interval, and the verdict is "none".
    """
    found = []
    for (tp, qps, metric, statistic), group in summary.groupby(["tp", "qps", "metric", "statistic"], sort=False):
        times = group.pivot(index="block", columns="arm", values="value_ms")
        for baseline, treatment in pairs:
            if {baseline, treatment} <= set(times):
                with np.errstate(divide="ignore", invalid="ignore"):
                    d = np.log(times[treatment] / times[baseline])
                d = d[np.isfinite(d)].to_numpy()  # neither a missing time nor one of 0 has a ratio
                reasons = [(invalid or {}).get((tp, qps, arm)) for arm in (baseline, treatment)]
                found.append([tp, qps, metric, statistic, baseline, treatment, d, next(filter(None, reasons), "")])
    if not found:
        return pd.DataFrame(columns=COMPARISON_COLUMNS)
    table = pd.DataFrame(found, columns=[*COMPARISON_COLUMNS[:6], "d", "reason"])
    table["p_value"] = table["d"].map(sign_flip_p)
    families = table.groupby(FAMILY, sort=False)["p_value"]
    table = table.assign(p_value=families.transform(holm), cells=families.transform("count"))
    table["delta"] = _deltas(table, delta)
    judged = [_judge(row.d, row.cells, tier, row.delta, bool(row.reason)) for row in table.itertuples()]
    table = table.join(pd.DataFrame(judged, columns=["ratio", "ci_low", "ci_high", "blocks", "tier", "verdict"]))
    table["note"] = table["reason"].where((table["reason"] != "") | (table["blocks"] > 0), TOO_SMALL)
    return table[COMPARISON_COLUMNS]


def tier_of(blocks: int) -> str:
    """The tier that so many blocks earn: 1 and 2 'smoke', 3 'quick', 6 'standard', 10 'full'."""
    return [name for name, least in TIERS.items() if least <= max(blocks, 1)][-1]


def t_interval(d: np.ndarray, cells: int = 1) -> tuple[float, float]:
    """The t interval of the mean of `d`, one value a block, at confidence 1 − 0.05 / `cells`; (nan, nan) for fewer
    than two values."""
    if len(d) < 2:
        return math.nan, math.nan
    upper = 1 - (1 - CONFIDENCE) / cells / 2
    half = stats.t.ppf(upper, len(d) - 1) * np.std(d, ddof=1) / math.sqrt(len(d))
    return float(np.mean(d) - half), float(np.mean(d) + half)


def sign_flip_p(d: np.ndarray) -> float:
    """Exact two-sided p of "each sign in `d` is chance": the share of all 2^n flips that give as large a mean."""
    if not len(d):
        return math.nan
    if len(d) > MAX_BLOCKS:
        raise ValueError(f"{len(d)} blocks are more than {MAX_BLOCKS}, the most of which all signs can be tried")
    sums = np.zeros(1)
    for value in d:
        sums = np.concatenate([sums + value, sums - value])
    observed = abs(d.sum())
    return float(np.mean(np.abs(sums) >= observed - 1e-9 * max(observed, 1e-300)))


def holm(p: pd.Series) -> pd.Series:
    """Holm's adjustment of one family's p-values: from the smallest, the i-th of m times m − i + 1, never below the one
    before, at most 1. NaN stays NaN and does not count."""
    ordered = p.dropna().sort_values()
    factors = np.arange(len(ordered), 0, -1)
    return (ordered * factors).clip(upper=1).cummax().reindex(p.index)


def equivalence_band(delta: float = DELTA) -> tuple[float, float]:
    """The ratios that differ from 1 by less than matters: as factors, so that swapping the arms swaps the verdict."""
    return 1 / (1 + delta), 1 + delta


def verdict(ratio: float, low: float, high: float, delta: float = DELTA) -> str:
    """What a latency ratio and its interval [`low`, `high`] say; "none" without an interval.

    Two questions are kept apart. Is there a difference: does the interval exclude 1? Does it matter: does the ratio lie
    beyond `equivalence_band(delta)`? "faster" and "slower" say yes to both. "equivalent" says that the whole interval
    lies inside the band, even where it excludes 1. All else is "inconclusive". To ask that the whole interval lie
    beyond the band would be a test of "larger than delta", which finds an effect little above delta only with many
    blocks (docs/serving-statistics.md).
    """
    if math.isnan(low) or math.isnan(high):
        return NO_VERDICT
    least, most = equivalence_band(delta)
    if least <= low and high <= most:
        return "equivalent"
    if high < 1 and ratio < least:
        return "faster"
    return "slower" if low > 1 and ratio > most else "inconclusive"


def noise_floor(comparison: pd.DataFrame) -> pd.DataFrame:
    """What two equal arms differ by: FLOOR_COLUMNS, a row per (metric, statistic) of an A/A experiment's `comparison`.

    `delta`: the largest difference over the cells, as a factor (exp |ln ratio| − 1, so that swapping the arms changes
    nothing), at least LEAST_DELTA; rounded up to 1e-6, so that the cell that set it does not lie beyond it. `cells`:
    those that count, which are neither invalid nor empty; `blocks`: those of the cell that has the fewest.
    """
    counting = comparison[(comparison["verdict"] != "invalid") & comparison["ratio"].notna()]
    rows = []
    for (metric, statistic), cells in counting.groupby(["metric", "statistic"], sort=False):
        largest = math.exp(cells["ratio"].map(math.log).abs().max()) - 1
        delta = max(LEAST_DELTA, math.ceil(largest * 1e6) / 1e6)
        rows.append((metric, statistic, delta, int(cells["blocks"].min()), len(cells)))
    return pd.DataFrame(rows, columns=FLOOR_COLUMNS)


def _deltas(table: pd.DataFrame, delta: float | pd.DataFrame | Mapping[tuple[str, str], float]) -> list[float]:
    """The delta of every row of `table` by its `metric` and `statistic`."""
    if isinstance(delta, pd.DataFrame):
        delta = {(row.metric, row.statistic): row.delta for row in delta.itertuples()}
    if isinstance(delta, Mapping):
        return [float(delta.get(asked, DELTA)) for asked in zip(table["metric"], table["statistic"], strict=True)]
    return [float(delta)] * len(table)


def _judge(d: np.ndarray, cells: int, tier: str, delta: float, is_invalid: bool) -> list:
    """Ratio, interval, blocks, tier and verdict of the log-ratios `d`, one of `cells` in its family."""
    earned = min(tier_of(len(d)), tier, key=list(TIERS).index)
    low, high = t_interval(d, cells) if earned != "smoke" else (math.nan, math.nan)
    ratio = math.exp(d.mean()) if len(d) else math.nan
    said = "invalid" if is_invalid else verdict(ratio, math.exp(low), math.exp(high), delta)
    return [ratio, math.exp(low), math.exp(high), len(d), earned, said]


def _statistic(values: np.ndarray, statistic: str) -> float:
    if statistic in PERCENTILES:
        return float(np.percentile(values, PERCENTILES[statistic]))
    return float(np.mean(values) if statistic == "mean" else np.median(values))


def latencies_s(result: Mapping) -> np.ndarray:
    """Seconds from sending to the last token; files of older vLLM hold only their parts."""
    if "latencies" in result:
        return np.array(result["latencies"], dtype=float)
    return np.array([ttft + sum(gaps) for ttft, gaps in zip(result["ttfts"], result["itls"], strict=True)])
