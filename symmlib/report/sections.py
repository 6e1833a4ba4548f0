"""What stands in each part of the page: pictures, tables and words out of a run's files, ready for the template.

Called by `page`; every function takes the run's `Contents` and copes with tables that are not there.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from symmlib.analysis import bands, fastest, published, verdicts, words
from symmlib.analysis.allreduce import VLLM_WAYS
from symmlib.analysis.distributions import counting
from symmlib.analysis.serving import MAX_BLOCKS
from symmlib.report import contents, figures
from symmlib.report.contents import Contents
from symmlib.report.parts import Table, plot, unbroken


@dataclass(frozen=True)
class Tile:
    """One number that moved: what it is, before, after, and between what."""

    label: str
    before: str
    after: str
    note: str


def answer(run: Contents) -> dict:
    """The `headline`, how certain it is (`certainty`), and the `sentences` that carry it."""
    comparison, summary = run.tables["comparison"], run.tables["allreduce_summary"]
    sentences = verdicts.sentences(comparison, summary, run.tables["gates"])
    return {
        "headline": verdicts.headline(comparison, summary),
        "certainty": verdicts.certainty(comparison),
        "sentences": [sentence for sentence in sentences if sentence != run.banner],  # which stands beside the headline
    }


def tiles(run: Contents) -> list[Tile]:
    """TPOT and TTFT of the lead pair at the highest load at which its TPOT is decided (faster or slower), else at the
    highest of all, with their verdicts; and one all-reduce: before and after."""
    found = []
    rows, times = verdicts.headline_rows(run.tables["comparison"]), run.tables["serving_summary"]
    lead = verdicts.leading_pair(rows[rows.verdict != "invalid"])
    if not lead.empty and times is not None:
        decided = lead[(lead.metric == "tpot") & lead.verdict.isin(["faster", "slower"])]
        cells = lead if decided.empty else decided
        tp, qps = max(zip(cells.tp, cells.qps, strict=True))
        said = lead[(lead.tp == tp) & (lead.qps == qps) & (lead.tier != "smoke")].set_index("metric").verdict
        here = times[(times.tp == tp) & (times.qps == qps) & (times.statistic == lead.statistic.iloc[0])]
        means = here.groupby(["metric", "arm"]).value_ms.mean()
        baseline, treatment = lead.baseline.iloc[0], lead.treatment.iloc[0]
        for metric, label in (("tpot", "Time per output token (TPOT)"), ("ttft", "Time to first token (TTFT)")):
            before, after = means.get((metric, baseline)), means.get((metric, treatment))
            if pd.notna(before) and pd.notna(after):
                note = f"{baseline} → {treatment}, {lead.statistic.iloc[0]} at TP={tp:g}, QPS {qps:g}"
                note += f": {said[metric]}" if metric in said else ""
                found.append(Tile(label, words.milliseconds(before), words.milliseconds(after), note))
    for best in fastest.per_setting(run.tables["allreduce_summary"])[:1]:
        incumbent = next((name for name in (*fastest.INCUMBENTS, *VLLM_WAYS) if name in best["others"]), None)
        if incumbent:
            note = f"{incumbent} → {best['backend']}, median on {best['setting']}"
            note += f"; {words.ONE_GPU_MARK}" if run.banner else ""
            before, after = words.microseconds(best["others"][incumbent]), words.microseconds(best["time_us"])
            found.append(Tile(f"One all-reduce of {best['size']}", before, after, note))
    return found


def serving(run: Contents) -> dict:
    """`plots` (ratios with intervals first, then TTFT and TPOT against QPS, then how requests are spread), whether they
    say anything of `effects`, the `table` of all comparisons, and the `workload` in a phrase."""
    summary, comparison, requests = (run.tables[name] for name in ("serving_summary", "comparison", "serving"))
    section = {"plots": [], "effects": False, "table": None, "workload": run.workload}
    if comparison is not None:
        section["table"] = _comparison_table(comparison)
        section["effects"] = bool((verdicts.headline_rows(comparison).verdict != "invalid").any())
    if section["effects"]:
        floor, source = run.tables["noise_floor"], "results/comparison.csv"
        section["plots"].append(plot("effects", figures.effects, comparison, floor, source=source))
    baseline = None if comparison is None else comparison.baseline.iloc[0]
    if summary is not None:
        reference, source = published.reference(run.experiment), "results/serving_summary.csv"
        drawn = plot("ttft-tpot", figures.ttft_tpot, summary, baseline, reference, source=source)
        section["plots"].append(drawn)
    if requests is not None and not counting(requests, comparison).empty:
        drawn = plot("spread", figures.distributions, requests, comparison, baseline, source="results/serving.csv")
        section["plots"].append(drawn)
    return section


def beside_published(run: Contents) -> dict:
    """The published B200 numbers: `plots`, `claims` recomputed, and this run's numbers `beside` them."""
    numbers = published.load()
    judged = published.claims(numbers)
    own = published.own_reductions(run.tables["serving_summary"], run.tables["comparison"])
    claims = [[row.claim, row.statistic, row.recomputed, row.verdict, row.why] for row in judged.itertuples()]
    beside = [
        [
            row.source,
            f"{row.baseline} → {row.treatment}",
            f"{row.tp:g}",
            f"{row.qps:g}",
            *(cell for metric in ("ttft", "tpot") for cell in _before_after(row, metric)),
        ]
        for row in published.side_by_side(numbers, own).itertuples()
    ]
    columns = ["source", "arms", "TP", "QPS", "mean TTFT, ms", "less", "mean TPOT, ms", "less"]
    return {
        "finding": published.finding(judged),
        "plots": [plot("published", figures.published_pr20759, numbers)],
        "claims": Table(
            "Claims of the pull request, recomputed by mean and by median",
            ["claim", "by", "recomputed", "verdict", "why"],
            claims,
            wordy=True,
        ),
        "beside": Table("Published numbers and this run's", columns, beside, frozenset(range(2, 8))),
        "has_own": not own.empty,
        "same_shapes": published.reference(run.experiment) is not None,
        "source": published.SOURCE,
        "url": published.SOURCE_URL,
        "setting": published.SETTING,
        "caveat": published.CAVEAT,
    }


def gates(run: Contents) -> dict:
    """The `table` of checks, failed ones first, their `count` and how many are `invalid`."""
    checks = run.tables["gates"]
    if checks is None:
        return {"table": None, "invalid": 0, "count": 0}
    ordered = checks.sort_values("status", key=lambda status: status != "invalid", kind="stable")
    rows = [[row.gate, row.cell.replace("QPS ", "QPS\u00a0"), row.status, row.reason] for row in ordered.itertuples()]
    table = Table("Gates", ["gate", "cell", "status", "reason"], rows, wordy=True)
    return {"table": table, "invalid": int((checks.status == "invalid").sum()), "count": len(checks)}


def provenance(manifest: dict) -> list[tuple[str, str]]:
    """What a colleague needs to trust or repeat the run, as (name, value)."""
    cpu = (manifest.get("hardware") or {}).get("cpu") or {}
    gpus = (manifest.get("hardware") or {}).get("gpus") or []
    cpu_words = [cpu.get("model", "unknown"), f"{cpu.get('cores', '?')} cores"]
    if cpu.get("memory_bytes"):
        cpu_words.append(f"{cpu['memory_bytes'] / 2**30:.0f} GiB")
    gpus_words = [", ".join(v if k == "name" else f"{k} {v}" for k, v in gpu.items()) for gpu in gpus]
    command = [str(part) for part in manifest.get("argv") or [""]]
    rows = [
        ("run", manifest.get("run_id", "")),
        ("profile", f"{manifest.get('profile', '')}, sha256 {str(manifest.get('profile_hash', ''))[:16]}"),
        ("started", contents.when(manifest.get("started"))),
        ("ended", contents.when(manifest.get("ended"))),
        ("started as", shlex.join([Path(command[0]).name, *command[1:]]) if command[0] else ""),
        ("revision", contents.revision(manifest)),
        ("CPU", ", ".join(cpu_words)),
        ("GPU", "; ".join(f"{gpus_words.count(gpu)} × {gpu}" for gpu in dict.fromkeys(gpus_words)) or "none"),
        ("kernel", cpu.get("kernel", "")),
        ("versions", ", ".join(f"{name} {version}" for name, version in (manifest.get("versions") or {}).items())),
        ("environment", " ".join(f"{name}={value}" for name, value in (manifest.get("environment") or {}).items())),
    ]
    return [(name, str(value)) for name, value in rows if value]


def suggested_blocks(run: Contents) -> int | None:
    """Twice the blocks that have run, for who wants narrower intervals. None where there is nothing to add to: blocks
    that were asked for are missing, servers' own files are not there, or there are as many as can be."""
    comparison = run.tables["comparison"]
    if comparison is None or not any((run.path / "raw" / "serving").glob("block-*/*/turn.json")):
        return None
    blocks = int(comparison.blocks.max())
    if blocks != run.experiment.get("blocks") or not 0 < blocks < MAX_BLOCKS:
        return None
    return min(2 * blocks, MAX_BLOCKS)


def files(run: Contents) -> dict[str, list[str]]:
    """Files to link, by kind; everything that the run wrote is reachable."""
    kinds: dict[str, list[str]] = {"results": [], "notebooks": [], "raw": [], "other": []}
    for name in run.files():
        kinds.get(name.split("/")[0], kinds["other"]).append(name)
    return kinds


def _comparison_table(comparison: pd.DataFrame) -> Table:
    rows = [
        [
            f"{row.tp:g}",
            f"{row.qps:g}",
            unbroken(f"{row.statistic} {row.metric.upper()}"),
            f"{row.treatment} / {row.baseline}",
            _number(row.ratio, words.ratio),
            words.ratio_interval(row.ci_low, row.ci_high, row.ratio) if pd.notna(row.ci_low) else "–",
            _number(row.p_value, lambda value: f"{value:.3g}"),
            f"{row.blocks:g}",
            unbroken(bands.width(row.delta)),
            row.verdict or "none",
        ]
        for row in bands.with_delta(comparison[comparison.ratio.notna()]).itertuples()
    ]
    columns = [
        "TP",
        "QPS",
        "what",
        "treatment / baseline",
        "ratio",
        "95 % interval",
        "exact p",
        "blocks",
        "band",
        "verdict",
    ]
    caption = (
        "Every comparison. ITL is the gap between two tokens of a request, E2EL the time from sending it to its last "
        "token; p90 and so on are percentiles. Cells (TP, QPS) are judged together: with 95 % all their intervals "
        "cover the true ratios at once, and p is adjusted by Holm. Faster and slower: the interval leaves out 1 and "
        "the ratio lies beyond the band; equivalent: the interval lies inside it."
    )
    return Table(caption, columns, rows, frozenset({0, 1, 4, 5, 6, 7, 8}))


def _before_after(row, metric: str) -> tuple[str, str]:
    before, after = getattr(row, f"{metric}_baseline_ms"), getattr(row, f"{metric}_treatment_ms")
    less = getattr(row, f"{metric}_reduction_pct")
    pair = f"{_plain_ms(before)} → {_plain_ms(after)}" if pd.notna(before) and pd.notna(after) else "–"
    return pair, _number(less, words.percent)


def _plain_ms(value: float) -> str:
    return words.milliseconds(value).removesuffix(" ms")


def _number(value, show) -> str:
    return show(value) if pd.notna(value) else "–"
