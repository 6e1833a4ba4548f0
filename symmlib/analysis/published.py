"""The numbers that vLLM pull request 20759 published for B200, and whether its claims follow from its own table.

`load` reads the table, `reductions` recomputes what each cell gained, `claims` holds the words against that, and
`own_reductions` puts a run's measurements into the same columns. Called by the report and by `06_pr20759`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

import pandas as pd

SOURCE = "vLLM pull request 20759"
SOURCE_URL = "https://github.com/vllm-project/vllm/pull/20759"
SETTING = (
    "Llama-3.1-70B-Instruct on B200, TP 4 and 8, sonnet dataset (550 tokens in, 150 out, 200 shared), prefix caching "
    "off, 60 s at QPS 1, 5 and 10"
)
METRICS, STATISTICS = ("ttft", "tpot"), ("mean", "median")
CAVEAT = "one run each, 60 requests at QPS 1: no interval can be given, so a difference of a few per cent may be chance"
SAME_SHAPES = ("dummy-70b", "Llama-3.1-70B-Instruct")  # ends a model's name that has the published one's shapes
SAME_REQUESTS = {"input_len": 550, "output_len": 150, "prefix_len": 200}
REFERENCE_COLUMNS = ["tp", "qps", "arm", "metric", "statistic", "value_ms"]
REDUCTION_COLUMNS = ["tp", "qps", "metric", "statistic", "baseline_ms", "symm_mem_ms", "reduction_pct"]
OWN_COLUMNS = [
    "tp",
    "qps",
    "metric",
    "statistic",
    "baseline",
    "treatment",
    "baseline_ms",
    "treatment_ms",
    "reduction_pct",
]


@dataclass(frozen=True)
class Claim:
    """Words of the pull request: at `tp`, symmetric memory lowers `metric` by `low_pct` to `high_pct` per cent.

    `low_pct` None reads "up to": the largest reduction is `high_pct`. A peak given as a range ("up to 5-7 %") has
    `peak_low_pct`.
    """

    words: str
    tp: int
    metric: str
    high_pct: float
    low_pct: float | None = None
    peak_low_pct: float | None = None


CLAIMS = (  # as the description of the pull request puts them, SOURCE_URL, read 2026-11
    Claim("up to 8 % TTFT for TP=4", tp=4, metric="ttft", high_pct=8),
    Claim("7 to 10 % TTFT for TP=8", tp=8, metric="ttft", low_pct=7, high_pct=10),
    Claim("up to 5-7 % TPOT for TP=8", tp=8, metric="tpot", peak_low_pct=5, high_pct=7),
)


def load() -> pd.DataFrame:
    """The published table: `gpu, model, tp, arm (baseline|symm_mem), qps, mean_ttft_ms ... median_tpot_ms`."""
    with resources.files("symmlib").joinpath("data/pr20759_b200.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def reductions(published: pd.DataFrame) -> pd.DataFrame:
    """What symmetric memory saved: one row per (tp, qps, metric, statistic), `reduction_pct` positive where faster."""
    rows = []
    for (tp, qps), cell in published.groupby(["tp", "qps"]):
        arms = cell.set_index("arm")
        for metric in METRICS:
            for statistic in STATISTICS:
                before, after = (float(arms.loc[arm, f"{statistic}_{metric}_ms"]) for arm in ("baseline", "symm_mem"))
                rows.append([tp, qps, metric, statistic, before, after, 100 * (1 - after / before)])
    return pd.DataFrame(rows, columns=REDUCTION_COLUMNS)


def reference(experiment: Mapping) -> pd.DataFrame | None:
    """The published times (`REFERENCE_COLUMNS`), if `experiment` asked the same of a model of the same shapes.

    `experiment`: as raw/serving/experiment.json keeps it. None where model or requests differ: then milliseconds say
    nothing about each other. Which TP and QPS are the same is for the reader of the rows to see.
    """
    same_model = str(experiment.get("model", "")).rstrip("/").endswith(SAME_SHAPES)
    if not same_model or any(experiment.get(name) != value for name, value in SAME_REQUESTS.items()):
        return None
    wide = load().melt(id_vars=["tp", "qps", "arm"], value_vars=[f"{s}_{m}_ms" for s in STATISTICS for m in METRICS])
    named = wide.variable.str.extract(r"(?P<statistic>\w+)_(?P<metric>\w+)_ms")
    return wide.join(named).rename(columns={"value": "value_ms"})[REFERENCE_COLUMNS]


def claims(published: pd.DataFrame) -> pd.DataFrame:
    """Every claim against the table it was made from: `claim, tp, metric, statistic, recomputed, verdict, why`.

    One row per claim and statistic (mean, median). `recomputed` lists the reductions by QPS. A claim `holds` if what
    it says is true of the reductions rounded to whole per cent; it `holds in part` if it is true at some rates only;
    otherwise it `does not hold`.
    """
    saved = reductions(published)
    rows = []
    for claim in CLAIMS:
        for statistic in STATISTICS:
            chosen = saved.query("tp == @claim.tp and metric == @claim.metric and statistic == @statistic")
            by_qps = dict(zip(chosen.qps, chosen.reduction_pct, strict=True))
            recomputed = ", ".join(f"{pct:.1f} % at QPS {qps}" for qps, pct in by_qps.items())
            rows.append([claim.words, claim.tp, claim.metric, statistic, recomputed, *_judge(claim, by_qps)])
    return pd.DataFrame(rows, columns=["claim", "tp", "metric", "statistic", "recomputed", "verdict", "why"])


def finding(judged: pd.DataFrame) -> str:
    """The claims in one sentence, by their means, as the pull request made them."""
    means = judged[judged.statistic == "mean"]
    words = [f"“{row.claim}” {row.verdict}" for row in means.itertuples()]
    return f"Recomputed from its own table (means): {'; '.join(words)}."


def own_reductions(serving_summary: pd.DataFrame, comparison: pd.DataFrame) -> pd.DataFrame:
    """A run's own numbers in the published shape: times are means over blocks, reductions are 1 - `ratio`.

    One row per (tp, qps, metric, statistic, baseline, treatment) of `comparison` for mean and median TTFT and TPOT,
    invalid ones left out.
    """
    if serving_summary is None or comparison is None or serving_summary.empty or comparison.empty:
        return pd.DataFrame(columns=OWN_COLUMNS)
    keys = ["arm", "tp", "qps", "metric", "statistic"]
    times = serving_summary.groupby(keys).value_ms.mean()
    shown = comparison[comparison.metric.isin(["ttft", "tpot"]) & comparison.statistic.isin(["mean", "median"])]
    rows = []
    for row in shown[shown.verdict != "invalid"].itertuples():
        cell = (row.tp, row.qps, row.metric, row.statistic)
        before, after = (times.get((arm, *cell), float("nan")) for arm in (row.baseline, row.treatment))
        rows.append([*cell, row.baseline, row.treatment, before, after, 100 * (1 - row.ratio)])
    return pd.DataFrame(rows, columns=OWN_COLUMNS)


def side_by_side(
    published: pd.DataFrame, own: pd.DataFrame | None = None, source: str = "this run", statistic: str = "mean"
) -> pd.DataFrame:
    """Published cells and a run's own (`own_reductions`), one row per (source, arms, TP, QPS): `ttft_baseline_ms` etc.

    The rows are not to be ranked against each other: model, machine and request shapes differ.
    """
    theirs = reductions(published).rename(columns={"symm_mem_ms": "treatment_ms"})
    theirs = theirs.assign(source="published", baseline="baseline", treatment="symm_mem")
    parts = [theirs] if own is None or own.empty else [theirs, own.assign(source=source)]
    rows = pd.concat(parts, ignore_index=True)
    rows = rows[rows.statistic == statistic]
    keys = ["source", "baseline", "treatment", "tp", "qps"]
    cells = rows[keys].drop_duplicates().reset_index(drop=True)
    for metric in ("ttft", "tpot"):
        named = {column: f"{metric}_{column}" for column in ("baseline_ms", "treatment_ms", "reduction_pct")}
        chosen = rows[rows.metric == metric].rename(columns=named)[[*keys, *named.values()]]
        cells = cells.merge(chosen, "left", on=keys)
    times = [f"{metric}_{arm}_ms" for metric in ("ttft", "tpot") for arm in ("baseline", "treatment")]
    return cells[[*keys, "ttft_reduction_pct", "tpot_reduction_pct", *times]]


def _judge(claim: Claim, by_qps: dict[int, float]) -> tuple[str, str]:
    if claim.low_pct is None:
        return _judge_peak(claim, by_qps)
    inside = [qps for qps, pct in by_qps.items() if claim.low_pct <= round(pct) <= claim.high_pct]
    outside = {qps: pct for qps, pct in by_qps.items() if qps not in inside}
    if not outside:
        return "holds", f"every rate gives {claim.low_pct:g} to {claim.high_pct:g} %"
    misses = " and ".join(f"QPS {qps} gives {pct:.1f} %" for qps, pct in outside.items())
    return (
        "holds in part" if inside else "does not hold",
        f"{misses}, outside {claim.low_pct:g} to {claim.high_pct:g} %",
    )


def _judge_peak(claim: Claim, by_qps: dict[int, float]) -> tuple[str, str]:
    qps, peak = max(by_qps.items(), key=lambda item: item[1])
    low = claim.high_pct if claim.peak_low_pct is None else claim.peak_low_pct
    least_qps, least = min(by_qps.items(), key=lambda item: item[1])
    seen = f"the largest reduction is {peak:.1f} %, at QPS {qps}"
    if low <= round(peak) <= claim.high_pct:
        return "holds", f"{seen}; the smallest is {least:.1f} %, at QPS {least_qps}"
    return "does not hold", f"{seen}: {'more' if peak > claim.high_pct else 'less'} than claimed"
