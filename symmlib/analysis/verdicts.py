"""Results in words: who is faster, by how much, how sure that is, and what to do about it.

`headline` is the answer in one line, `sentences` the few lines that carry it; both are printed at the end of
`symmlib run` and stand first in the report. They say no more than the tables: every verdict comes from the column
`verdict` of the comparison, whose interval already accounts for the blocks and the number of cells.
"""

import pandas as pd

from symmlib.analysis import fastest, words
from symmlib.backends import BACKENDS

METRICS = {"tpot": "per token", "ttft": "to the first token"}  # by weight for who serves; the table has itl, e2el too
STATISTICS = ("median", "mean")  # the first one present speaks: a median forgives one stalled request
VERDICTS = ("faster", "slower", "equivalent", "inconclusive")
NOTHING = "Nothing was measured: this run has no results to judge."


def headline(comparison: pd.DataFrame | None, summary: pd.DataFrame | None = None) -> str:
    """The answer in one short line, without its uncertainty (which `certainty` and `sentences` carry)."""
    rows = headline_rows(comparison)
    if rows.empty:
        best = next(iter(fastest.per_setting(summary)), None)
        if best is None:
            return "Nothing was measured"
        names = words.listed([best["backend"], *best["level"]])
        return f"Fastest all-reduce at {best['size']}: {names}"
    valid = rows[rows.verdict != "invalid"]
    if valid.empty:
        return "No verdict: every cell is invalid"
    if (valid.tier == "smoke").all():
        return "Smoke run: no verdict"
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
    if (rows.verdict == "invalid").all():
        return "invalid"
    if (rows.tier == "smoke").all():
        return "no verdict: 1 block"
    return f"preliminary: {_blocks(rows)}" if (rows.tier == "quick").any() else _blocks(rows)


def sentences(
    comparison: pd.DataFrame | None, summary: pd.DataFrame | None = None, gates: pd.DataFrame | None = None
) -> list[str]:
    """The verdicts as a few sentences, most important first.

    `comparison` has the columns of `results/comparison.csv`, `summary` those of `results/allreduce_summary.csv`,
    `gates` those of `results/gates.csv` (for the reasons of invalid cells). Each may be None or empty.
    """
    lines = _serving_sentences(headline_rows(comparison), gates) + fastest.sentences(summary)
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

    The baseline is the experiment's, which comes first. The treatment is the router where it takes part, else the
    first; unless another is faster per token beyond doubt, which is then the answer.
    """
    pairs = [pair for pair in _pairs(rows) if _pair(pair)[0] == rows.baseline.iloc[0]]
    if not pairs:
        return rows
    lead = next((pair for pair in pairs if _pair(pair)[1] == "router"), pairs[0])
    return next((pair for pair in pairs if _between(pair, lead, rows) == {"slower"}), lead)


def _serving_sentences(rows: pd.DataFrame, gates: pd.DataFrame | None) -> list[str]:
    if rows.empty:
        return []
    invalid, valid = rows[rows.verdict == "invalid"], rows[rows.verdict != "invalid"]
    if valid.empty:
        why = f"every cell is invalid ({words.cells(invalid)}){_reasons(invalid, gates)}"
        return [f"No verdict, because {why}. Mend that first."]
    lead = leading_pair(valid)
    others = [pair for pair in _pairs(valid) if _pair(pair)[0] == _pair(lead)[0] and _pair(pair) != _pair(lead)]
    if (valid.tier == "smoke").all():
        lines = [_smoke_sentence(lead)]
    else:
        lines = _lead_sentences(lead) + [_peer_sentence(arm, lead, valid) for arm in others]
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


def _peer_sentence(arm: pd.DataFrame, lead: pd.DataFrame, rows: pd.DataFrame) -> str:
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
    between = _between(arm, lead, rows)
    if between == {"faster"}:
        relation = f"{lead_name} is faster still"
    elif between == {"equivalent"}:
        relation = f"{lead_name} is as fast"
    else:
        relation = f"it cannot be told apart from {lead_name}"
    return _sentence_case(f"{text}; per token {relation}.")


def _between(arm: pd.DataFrame, lead: pd.DataFrame, rows: pd.DataFrame) -> set[str]:
    """What the verdicts say per token of `lead`'s treatment against `arm`'s, both compared with one baseline.

    From their direct comparison in `rows` where there is one; else 'faster' or 'slower' where their intervals lie apart
    in every cell, and 'inconclusive' where they overlap.
    """
    (_, one), (_, other) = _pair(arm), _pair(lead)
    tpot = rows[rows.metric == "tpot"]
    direct = tpot[(tpot.baseline == one) & (tpot.treatment == other)]
    if not direct.empty:
        return set(direct.verdict)
    reverse = tpot[(tpot.baseline == other) & (tpot.treatment == one)]
    if not reverse.empty:
        return {{"faster": "slower", "slower": "faster"}.get(verdict, verdict) for verdict in reverse.verdict}
    shared = lead[lead.metric == "tpot"].merge(arm[arm.metric == "tpot"], on=["tp", "qps"], suffixes=("", "_arm"))
    if not shared.empty and (shared.ci_high < shared.ci_low_arm).all():
        return {"faster"}
    if not shared.empty and (shared.ci_low > shared.ci_high_arm).all():
        return {"slower"}
    return {"inconclusive"}


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


def _pairs(rows: pd.DataFrame) -> list[pd.DataFrame]:
    return [group for _, group in rows.groupby(["baseline", "treatment"], sort=False)]


def _pair(rows: pd.DataFrame) -> tuple[str, str]:
    return str(rows.baseline.iloc[0]), str(rows.treatment.iloc[0])


def _weightiest(rows: pd.DataFrame) -> pd.DataFrame:
    tpot = rows[rows.metric == "tpot"]
    return rows if tpot.empty else tpot


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
