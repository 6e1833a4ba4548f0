"""Results in words: who is faster, by how much, how sure that is, and what to do about it.

`headline` is the answer in one line, `sentences` the few lines that carry it; both are printed at the end of
`symmlib run` and stand first in the report. They say no more than the tables: every verdict comes from the column
`verdict` of the comparison, whose interval already accounts for the blocks and the number of cells.
"""

import math

import pandas as pd

from symmlib.analysis import words
from symmlib.backends import BACKENDS
from symmlib.sizes import format_size

METRICS = {"tpot": "per token", "ttft": "to the first token"}  # by weight for who serves; the table has itl, e2el too
STATISTICS = ("median", "mean")  # the first one present speaks: a median forgives one stalled request
VERDICTS = ("faster", "slower", "equivalent", "inconclusive")
HEADLINE_BYTES = 64 * 1024  # an all-reduce of one decode step: 8 tokens of a 4096-wide model in bf16
INCUMBENTS = ("gloo", "nccl")  # what a plain torch.distributed program would use
LEVEL = 0.03  # times closer than 3 % count as equal, as where routes are derived
NOTHING = "Nothing was measured: this run has no results to judge."


def headline(comparison: pd.DataFrame | None, summary: pd.DataFrame | None = None) -> str:
    """The answer in one short line, without its uncertainty (which `certainty` and `sentences` carry)."""
    rows = headline_rows(comparison)
    if rows.empty:
        best = next(iter(fastest(summary)), None)
        if best is None:
            return "Nothing was measured"
        names = words.listed([best["backend"], *best["level"]])
        return f"Fastest all-reduce at {best['size']}: {names}"
    if (rows.tier == "smoke").all():
        return "Smoke run: no verdict"
    valid = rows[rows.verdict != "invalid"]
    if valid.empty:
        return "No verdict: every cell is invalid"
    lead = leading_pair(valid)
    baseline, treatment = _pair(lead)
    tpot = _weightiest(lead)
    close = tpot.ratio.max() / tpot.ratio.min() < 1.25  # one number says it; the sentences give the range
    amount, direction = words.change(pd.Series([words.geometric_mean(tpot.ratio)]) if close else tpot.ratio)
    verdicts = set(tpot.verdict)
    if verdicts == {"faster"}:
        return f"Use {_the(treatment)}: {amount} {direction} per token than {baseline}"
    if verdicts == {"slower"}:
        return f"Keep {baseline}: {_the(treatment)} is {amount} {direction} per token"
    if verdicts == {"equivalent"}:
        return f"Keep {baseline}: {_the(treatment)} is as fast per token"
    if verdicts == {"inconclusive"}:
        return f"Undecided: {_the(treatment)} and {baseline} are too close per token"
    if {"faster", "slower"} <= verdicts:
        return f"It depends on the load whether {_the(treatment)} is faster than {baseline}"
    told = "faster" if "faster" in verdicts else "slower" if "slower" in verdicts else "equally fast"
    return (
        f"Per token {_the(treatment)} is {told} in {int((tpot.verdict != 'inconclusive').sum())} of {len(tpot)} cells"
    )


def certainty(comparison: pd.DataFrame | None) -> str:
    """How far the verdicts carry, for a badge: 'preliminary: 3 blocks', '6 blocks', 'no verdict: 1 block'."""
    rows = headline_rows(comparison)
    if rows.empty:
        return ""
    if (rows.tier == "smoke").all():
        return "no verdict: 1 block"
    if (rows.verdict == "invalid").all():
        return "invalid"
    return f"preliminary: {_blocks(rows)}" if (rows.tier == "quick").any() else _blocks(rows)


def sentences(
    comparison: pd.DataFrame | None, summary: pd.DataFrame | None = None, gates: pd.DataFrame | None = None
) -> list[str]:
    """The verdicts as a few sentences, most important first.

    `comparison` has the columns of `results/comparison.csv`, `summary` those of `results/allreduce_summary.csv`,
    `gates` those of `results/gates.csv` (for the reasons of invalid cells). Each may be None or empty.
    """
    lines = _serving_sentences(headline_rows(comparison), gates) + _allreduce_sentences(summary)
    return lines or [NOTHING]


def headline_rows(comparison: pd.DataFrame | None) -> pd.DataFrame:
    """TPOT and TTFT rows of the one statistic that speaks, with `verdict` and `tier` as plain strings."""
    if comparison is None or comparison.empty:
        return pd.DataFrame(columns=["tp", "qps", "metric", "baseline", "treatment", "ratio", "tier", "verdict"])
    rows = comparison[comparison.metric.isin(METRICS)]
    spoken = next((name for name in STATISTICS if (rows.statistic == name).any()), None)
    rows = rows[rows.statistic == spoken]
    rows = rows.assign(verdict=rows.verdict.fillna("").astype(str), tier=rows.tier.fillna("").astype(str))
    unsaid = ~rows.verdict.isin([*VERDICTS, "invalid"]) & (rows.tier != "smoke")
    rows.loc[unsaid, "verdict"] = "inconclusive"
    return rows[(rows.verdict == "invalid") | rows.ratio.notna()]


def leading_pair(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the (baseline, treatment) that the answer is about, out of `headline_rows`.

    That is the router where it takes part, else the first treatment; unless another one is faster per token beyond
    doubt, which is then the answer.
    """
    pairs = _pairs(rows)
    if not pairs:
        return rows
    lead = next((pair for pair in pairs if _pair(pair)[1] == "router"), pairs[0])
    return next((pair for pair in pairs if _beats(pair, lead)), lead)


def fastest(summary: pd.DataFrame | None) -> list[dict]:
    """Per (world size, dtype, mode) the fastest correct backend at 64 KiB, or at the measured size next to it.

    Keys: `backend`, `size` (in words), `bytes`, `time_us`, `world_size`, `launches`, `others` (backend -> time in µs),
    `level` (those of the others that are less than 3 % slower).
    """
    if summary is None or summary.empty:
        return []
    right = summary[summary.median_us.notna() & ~(summary.wrong.fillna(0) > 0)]
    found = []
    for (world_size, _dtype, _mode), group in right.groupby(["world_size", "dtype", "mode"]):
        nbytes = int(min(group.bytes.unique(), key=lambda value: abs(math.log(value / HEADLINE_BYTES))))
        medians = group[group.bytes == nbytes].set_index("backend").median_us.sort_values(kind="stable")
        others = {name: float(value) for name, value in medians.iloc[1:].items()}
        time_us = float(medians.iloc[0])
        found.append(
            {
                "backend": medians.index[0],
                "size": format_size(nbytes),
                "bytes": nbytes,
                "time_us": time_us,
                "world_size": int(world_size),
                "launches": int(group.launches.max()),
                "others": others,
                "level": [name for name, value in others.items() if value < time_us * (1 + LEVEL)],
            }
        )
    return found


def _serving_sentences(rows: pd.DataFrame, gates: pd.DataFrame | None) -> list[str]:
    if rows.empty:
        return []
    invalid, valid = rows[rows.verdict == "invalid"], rows[rows.verdict != "invalid"]
    if valid.empty:
        why = f"every cell is invalid ({words.cells(invalid)}){_reasons(invalid, gates)}"
        return [f"No verdict, because {why}. Mend that first."]
    lead = leading_pair(valid)
    others = [pair for pair in _pairs(valid) if _pair(pair) != _pair(lead)]
    if (valid.tier == "smoke").all():
        lines = [_smoke_sentence(lead)]
    else:
        lines = _lead_sentences(lead) + [_peer_sentence(arm, lead) for arm in others]
    if not invalid.empty:
        lines.append(f"No verdict at {words.cells(invalid)}, which is invalid{_reasons(invalid, gates)}.")
    return lines


def _lead_sentences(lead: pd.DataFrame) -> list[str]:
    """The lead treatment against its baseline: one sentence per metric and verdict, advice after the first."""
    lines = []
    for metric in METRICS:
        for verdict in VERDICTS:
            rows = lead[(lead.metric == metric) & (lead.verdict == verdict)]
            if rows.empty:
                continue
            everywhere = words.cells(rows) == words.cells(lead)
            where = "" if everywhere and lines else f" at {words.cells(rows)}"
            blocks = "" if lines else f", {_blocks(rows)}{', preliminary' if (rows.tier == 'quick').any() else ''}"
            opening = "" if lines else "On this machine "
            lines.append(f"{opening}{_claim(rows, metric, verdict)}{where} ({_evidence(rows, metric)}{blocks}).")
    lines = [_sentence_case(line) for line in lines]
    return [f"{lines[0]} {_advice(lead)}", *lines[1:]]


def _claim(rows: pd.DataFrame, metric: str, verdict: str) -> str:
    baseline, treatment = _pair(rows)
    treatment = _the(treatment)
    if verdict == "equivalent":
        return f"{treatment} takes as long {METRICS[metric]} as {baseline}"
    if verdict == "inconclusive":
        return f"it is undecided whether {treatment} or {baseline} is faster {METRICS[metric]}"
    amount, direction = words.change(rows.ratio)
    if "%" in amount:
        less = "less" if direction == "faster" else "more"
        return f"{treatment} takes {amount} {less} time {METRICS[metric]} than {baseline}"
    verb = "answers" if metric == "tpot" else "starts to answer"
    return f"{treatment} {verb} {amount} {direction}{' per token' if metric == 'tpot' else ''} than {baseline}"


def _evidence(rows: pd.DataFrame, metric: str) -> str:
    text = f"{metric.upper()} ratio {words.span(rows.ratio, words.ratio)}"
    if rows.ci_low.notna().all() and rows.ci_high.notna().all():
        which = "95 % interval" if len(rows) == 1 else "95 % intervals within"
        text += f", {which} {words.ratio_interval(rows.ci_low.min(), rows.ci_high.max(), beside=rows.ratio.iloc[0])}"
    return text


def _advice(lead: pd.DataFrame) -> str:
    tpot, ttft = _weightiest(lead), lead[lead.metric == "ttft"]
    baseline, treatment = _pair(lead)
    verdicts = set(tpot.verdict)
    faster_at = words.cells(tpot[tpot.verdict == "faster"])
    if "slower" in verdicts:
        return f"Choose by load: {_setting(treatment)} only at {faster_at}." if faster_at else f"Keep {baseline}."
    if verdicts == {"equivalent"}:
        return f"Keep {baseline}: a change would gain nothing."
    if not faster_at:
        return "Measure more blocks before you change anything."
    if (ttft.verdict == "slower").any():
        return f"Use {_setting(treatment)} where time per token counts for more than the first token."
    if "inconclusive" in verdicts:
        return f"Use {_setting(treatment)} at {faster_at}; measure more blocks for the rest."
    return f"Use {_setting(treatment)}."


def _peer_sentence(arm: pd.DataFrame, lead: pd.DataFrame) -> str:
    """Another treatment in one sentence, and how it stands to the lead."""
    (baseline, treatment), lead_name = _pair(arm), _the(_pair(lead)[1])
    said = list(dict.fromkeys(arm.verdict))
    if len(said) == 1:
        clause = {"equivalent": f"as fast as {baseline}", "inconclusive": f"undecided against {baseline}"}
        text = f"{_the(treatment)} is {clause.get(said[0], f'{said[0]} than {baseline}')} ({_ratios(arm)})"
    else:
        parts = [
            f"{words.listed(dict.fromkeys(rows.verdict))} {about}"
            for metric, about in METRICS.items()
            if not (rows := arm[arm.metric == metric]).empty
        ]
        text = f"{_the(treatment)} against {baseline}: {words.listed(parts)} ({_ratios(arm)})"
    if _pair(lead)[0] != baseline:
        relation = ""
    elif _beats(lead, arm):
        relation = f"; per token {lead_name} is faster still"
    else:
        relation = f"; per token it cannot be told apart from {lead_name}, for their intervals overlap"
    return _sentence_case(f"{text}{relation}.")


def _ratios(rows: pd.DataFrame) -> str:
    """'TPOT ratio 0.17 to 0.18, TTFT ratio 0.32 to 0.35'."""
    present = [metric for metric in METRICS if (rows.metric == metric).any()]
    return ", ".join(
        f"{metric.upper()} ratio {words.span(rows[rows.metric == metric].ratio, words.ratio)}" for metric in present
    )


def _smoke_sentence(rows: pd.DataFrame) -> str:
    baseline, treatment = _pair(rows)
    return (
        f"A smoke run shows that every part works; one block gives no verdict. Seen once, {_the(treatment)} against "
        f"{baseline}: {_ratios(rows)}. For a verdict run three blocks or more (profile cpu)."
    )


def _reasons(invalid: pd.DataFrame, gates: pd.DataFrame | None) -> str:
    """': why', from the notes of the comparison, or else from the gates."""
    reasons = list(invalid.note.dropna()) if "note" in invalid else []
    if not any(reasons) and gates is not None and not gates.empty:
        reasons = [f"gate “{row.gate}”: {row.reason}" for row in gates[gates.status == "invalid"].itertuples()]
    reasons = list(dict.fromkeys(filter(None, reasons)))
    more = f"; and {len(reasons) - 3} more, listed under the gates" if len(reasons) > 3 else ""
    return f": {'; '.join(reasons[:3])}{more}" if reasons else ""


def _allreduce_sentences(summary: pd.DataFrame | None) -> list[str]:
    if summary is None or summary.empty:
        return []
    wrong = summary[summary.wrong.fillna(0) > 0]
    lines = []
    for backend, rows in wrong.groupby("backend"):
        sizes = words.listed(format_size(int(size)) for size in sorted(rows.bytes.unique()))
        lines.append(f"{backend} gave wrong sums (at {sizes}): do not use it before that is mended.")
    for best in fastest(summary):
        others = best["others"]
        peers = [name for name in INCUMBENTS if name in others] + [name for name in others if name.startswith("vllm/")]
        peers = [name for name in peers if name not in best["level"]]
        than = words.listed(f"{words.times(others[name] / best['time_us'])} faster than {name}" for name in peers[:3])
        level = f"; {words.listed(best['level'])} within 3 % of that" if best["level"] else ""
        lines.append(
            f"{best['backend']} sums {best['size']} over {best['world_size']} ranks in "
            f"{words.microseconds(best['time_us'])}{', ' if than else ''}{than}{level} "
            f"(median, {best['launches']} launch{'' if best['launches'] == 1 else 'es'})."
        )
    return lines or ["No all-reduce ran; the report says why for each backend."]


def _pairs(rows: pd.DataFrame) -> list[pd.DataFrame]:
    return [group for _, group in rows.groupby(["baseline", "treatment"], sort=False)]


def _pair(rows: pd.DataFrame) -> tuple[str, str]:
    return str(rows.baseline.iloc[0]), str(rows.treatment.iloc[0])


def _weightiest(rows: pd.DataFrame) -> pd.DataFrame:
    tpot = rows[rows.metric == "tpot"]
    return rows if tpot.empty else tpot


def _beats(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether `one`'s TPOT interval lies below `other`'s in every cell they share (same baseline)."""
    if _pair(one)[0] != _pair(other)[0]:
        return False
    shared = one[one.metric == "tpot"].merge(other[other.metric == "tpot"], on=["tp", "qps"], suffixes=("", "_other"))
    return not shared.empty and bool((shared.ci_high < shared.ci_low_other).all())


def _setting(arm: str) -> str:
    return f"SYMMLIB_ALLREDUCE={arm}" if arm == "router" or arm in BACKENDS else f"the configuration “{arm}”"


def _the(arm: str) -> str:
    return "the router" if arm == "router" else arm


def _blocks(rows: pd.DataFrame) -> str:
    count = words.span(rows.blocks, lambda value: f"{int(value)}")
    return f"{count} block{'' if count == '1' else 's'}"


def _sentence_case(text: str) -> str:
    """A capital at the start, except where an arm's name stands there."""
    return text[0].upper() + text[1:] if text.split()[0] in ("the", "it") else text
