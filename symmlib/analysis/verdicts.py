"""Results in words: who is faster, by how much, how sure that is, and what to do about it.

`headline` is the answer in one line, `sentences` the few lines that carry it; both are printed at the end of
`symmlib run` and stand first in the report. They say no more than the tables: every verdict comes from the column
`verdict` of the comparison, read off an interval that accounts for the number of cells, and off the band that is as
good as no change (`symmlib.analysis.serving`).
"""

from collections import Counter
from dataclasses import dataclass

import pandas as pd

from symmlib.analysis import fastest, invalid, words
from symmlib.analysis.serving import TIERS
from symmlib.backends import BACKENDS

METRICS = {"tpot": "per token", "ttft": "to the first token"}  # by weight for who serves; the table has itl, e2el too
STATISTICS = ("median", "mean")  # the first one present speaks: a median forgives one stalled request
VERDICTS = ("faster", "slower", "equivalent", "inconclusive")
PRELIMINARY = ("smoke", "quick")  # tiers in which the exact test cannot reach 0.05
NOTHING = "Nothing was measured: this run has no results to judge."


@dataclass(frozen=True)
class Brief:
    """A run in a line: `headline` and `certainty` as the functions of these names give them.

    `verdict` is what the lead comparison says per token: one of `VERDICTS`, 'mixed' where cells differ, 'invalid' where
    none counts; empty where nothing was judged.
    """

    headline: str
    certainty: str = ""
    verdict: str = ""


def brief(comparison: pd.DataFrame | None, summary: pd.DataFrame | None = None) -> Brief:
    """`headline` and `certainty` at once; arguments as for `sentences`."""
    rows = headline_rows(comparison)
    if rows.empty:
        return Brief(fastest.headline(summary))
    valid = rows[rows.verdict != "invalid"]
    if valid.empty:  # then there is nothing to be certain of
        return Brief("No verdict: every cell is invalid", "", "invalid")
    if (valid.tier == "smoke").all():
        why = "fewer than three blocks" if valid.blocks.max() < TIERS["quick"] else "tier smoke"
        return Brief(f"No verdict: {why}", f"no verdict: {words.blocks(valid)}")
    lead = leading_pair(valid)
    verdicts = set(_weightiest(lead).verdict)
    certain = f"preliminary: {words.blocks(lead)}" if lead.tier.isin(PRELIMINARY).any() else words.blocks(lead)
    return Brief(_answer(lead), certain, verdicts.pop() if len(verdicts) == 1 else "mixed")


def headline(comparison: pd.DataFrame | None, summary: pd.DataFrame | None = None) -> str:
    """The answer in one short line, without its uncertainty (which `certainty` and `sentences` carry)."""
    return brief(comparison, summary).headline


def certainty(comparison: pd.DataFrame | None) -> str:
    """How far the verdicts carry, for a badge: 'preliminary: 3 blocks', '6 blocks', 'no verdict: 1 block'.

    Empty where nothing valid was compared: then there is nothing to be certain of.
    """
    return brief(comparison).certainty


def sentences(
    comparison: pd.DataFrame | None, summary: pd.DataFrame | None = None, gates: pd.DataFrame | None = None
) -> list[str]:
    """The verdicts as a few sentences, most important first; before them `words.banner`, where it is due.

    `comparison` has the columns of `results/comparison.csv`, `summary` those of `results/allreduce_summary.csv`,
    `gates` those of `results/gates.csv` (for the reasons of invalid cells). Each may be None or empty.
    """
    lines = _serving_sentences(headline_rows(comparison), gates) + fastest.sentences(summary)
    tables = [table for table in (comparison, summary) if table is not None]
    banner = words.banner(device for table in tables for device in table.get("device", ()))
    return [banner, *lines] if banner else lines or [NOTHING]


def headline_rows(comparison: pd.DataFrame | None) -> pd.DataFrame:
    """TPOT and TTFT rows of the one statistic that speaks, with `verdict` and `tier` as plain strings.

    Where a row has no verdict, because its cell has too few blocks, it is `inconclusive` here, like any other that more
    blocks may decide; if all are in tier `smoke`, nothing is said of verdicts at all. `cells`: how many cells share the
    95 % of the row's interval.
    """
    if comparison is None or comparison.empty:
        return pd.DataFrame(columns=["tp", "qps", "metric", "baseline", "treatment", "ratio", "tier", "verdict"])
    rows = comparison[comparison.metric.isin(METRICS)]
    spoken = next((name for name in STATISTICS if (rows.statistic == name).any()), None)
    rows = rows[rows.statistic == spoken]
    compared = list(zip(rows.baseline, rows.treatment, rows.metric, strict=True))
    cells = Counter(pair for pair, ratio in zip(compared, rows.ratio, strict=True) if pd.notna(ratio))
    rows = rows.assign(
        verdict=[said if said in (*VERDICTS, "invalid") else "inconclusive" for said in map(str, rows.verdict)],
        tier=rows.tier.fillna("").astype(str),
        cells=[cells[pair] for pair in compared],
    )
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
    for pair in pairs:
        if pair is not lead and _between(pair, lead, rows) == {"slower"}:
            lead = pair
    return lead


def tally(verdicts: pd.Series, unit: str = " cells") -> str:
    """Verdicts, counted where they differ: 'faster', or 'faster in 5 and inconclusive in 1 of 6 cells'."""
    counts = verdicts.value_counts()
    if len(counts) == 1:
        return str(counts.index[0])
    told = words.listed(f"{verdict} in {counts[verdict]}" for verdict in VERDICTS if verdict in counts)
    return f"{told} of {len(verdicts)}{unit}"


def _answer(lead: pd.DataFrame) -> str:
    """The headline of the lead pair."""
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
        return f"Undecided whether {_the(treatment)} is faster per token than {baseline}"
    if {"faster", "slower"} <= verdicts:
        return f"It depends on the load whether {_the(treatment)} is faster than {baseline}"
    told = next(verdict for verdict in VERDICTS if verdict in verdicts)
    than = f"as fast as {baseline}" if told == "equivalent" else f"{told} than {baseline}"
    return f"Per token {_the(treatment)} is {than} in {(tpot.verdict == told).sum()} of {len(tpot)} cells"


def _serving_sentences(rows: pd.DataFrame, gates: pd.DataFrame | None) -> list[str]:
    if rows.empty:
        return []
    void, valid = rows[rows.verdict == "invalid"], rows[rows.verdict != "invalid"]
    notes = void.note.dropna() if "note" in void else ()
    why = f"{invalid.failures(gates, notes) or 'no reason was recorded'}. {invalid.remedies(gates, notes)}".strip()
    if valid.empty:
        return [f"No verdict, because every cell is invalid ({words.cells(void)}): {why}"]
    lead = leading_pair(valid)
    others = [pair for pair in _pairs(valid) if _pair(pair)[0] == _pair(lead)[0] and _pair(pair) != _pair(lead)]
    if (valid.tier == "smoke").all():
        lines = [_sentence_of_few_blocks(lead)]
    else:
        lines = _lead_sentences(lead) + [_peer_sentence(arm, lead, valid) for arm in others]
    if not void.empty:
        lines.append(f"Invalid, so no verdict, {_where(void, rows)}: {why}")
    return lines


def _where(void: pd.DataFrame, rows: pd.DataFrame) -> str:
    """'at TP=2, QPS 8' for the invalid rows, with their treatments where others are judged: 'on the router at ...'."""
    baseline = rows.baseline.iloc[0]
    void, rows = void[void.baseline == baseline], rows[rows.baseline == baseline]
    places: dict[str, list[str]] = {}
    for treatment, group in void.groupby("treatment", sort=False):
        places.setdefault(words.cells(group), []).append(_the(treatment))
    everyone = [len(names) for names in places.values()] == [rows.treatment.nunique()]
    return words.listed(
        f"at {cells}" if everyone else f"on {words.listed(names)} at {cells}" for cells, names in places.items()
    )


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
            preliminary = ", preliminary" if rows.tier.isin(PRELIMINARY).any() else ""
            certain = "" if lines else f", {words.blocks(rows)}{preliminary}"
            opening = "" if lines else "On this machine "
            lines.append(f"{opening}{_claim(rows, metric, verdict)}{where} ({_evidence(rows, metric)}{certain}).")
    lines = [_sentence_case(line) for line in lines]
    return [f"{lines[0]} {_advice(lead)}", *lines[1:]]


def _claim(rows: pd.DataFrame, metric: str, verdict: str) -> str:
    baseline, treatment = _pair(rows)
    treatment = _the(treatment)
    if verdict == "equivalent":
        return f"{treatment} takes as long {METRICS[metric]} as {baseline}"
    if verdict == "inconclusive":
        return (
            f"it is undecided whether {treatment} or {baseline} is faster {METRICS[metric]} by an amount that matters"
        )
    amount, direction = words.change(rows.ratio)
    if "%" in amount:
        less = "less" if direction == "faster" else "more"
        return f"{treatment} takes {amount} {less} time {METRICS[metric]} than {baseline}"
    verb = "answers" if metric == "tpot" else "starts to answer"
    return f"{treatment} {verb} {amount} {direction}{' per token' if metric == 'tpot' else ''} than {baseline}"


def _evidence(rows: pd.DataFrame, metric: str) -> str:
    text = f"{metric.upper()} ratio {words.span(rows.ratio, words.ratio)}"
    if rows.ci_low.notna().all() and rows.ci_high.notna().all():
        together = "simultaneous " if rows.cells.max() > 1 else ""
        which = f"{together}95 % {'interval' if len(rows) == 1 else 'intervals within'}"
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
    """Another treatment in one sentence, and how it stands to the lead; `rows` may hold their direct comparison."""
    (baseline, treatment), lead_name = _pair(arm), _the(_pair(lead)[1])
    if (arm.tier == "smoke").all():
        return _sentence_case(f"{_the(treatment)} ran in {words.blocks(arm)}, too few for a verdict ({_ratios(arm)}).")
    said = list(dict.fromkeys(arm.verdict))
    if len(said) == 1:
        clause = {"equivalent": f"as fast as {baseline}", "inconclusive": f"undecided against {baseline}"}
        text = f"{_the(treatment)} is {clause.get(said[0], f'{said[0]} than {baseline}')} ({_ratios(arm)})"
    else:
        by_metric = [(about, arm[arm.metric == metric].verdict) for metric, about in METRICS.items()]
        parts = ", ".join(f"{about} {tally(verdicts)}" for about, verdicts in by_metric if len(verdicts))
        text = f"{_the(treatment)} against {baseline}: {parts} ({_ratios(arm)})"
    relations = {
        "faster": f"{lead_name} is faster{' still' if set(_weightiest(arm).verdict) == {'faster'} else ''}",
        "slower": f"it is faster than {lead_name}",
        "equivalent": f"{lead_name} is as fast",
        "inconclusive": f"it cannot be told apart from {lead_name}",
    }
    between = _between(arm, lead, rows)
    depends = f"it depends on the cell how it compares with {lead_name}"
    return _sentence_case(f"{text}; per token {relations[between.pop()] if len(between) == 1 else depends}.")


def _between(arm: pd.DataFrame, lead: pd.DataFrame, rows: pd.DataFrame) -> set[str]:
    """What the verdicts say per token of `lead`'s treatment against `arm`'s, both compared with one baseline.

    From their direct comparison in `rows` where there is one; else 'faster' or 'slower' where their intervals lie apart
    in every cell, and 'inconclusive' where they overlap.
    """
    (_, one), (_, other) = _pair(arm), _pair(lead)
    tpot = rows[rows.metric == "tpot"]
    said: dict[tuple, set[str]] = {}
    for baseline, treatment, verdict in zip(tpot.baseline, tpot.treatment, tpot.verdict, strict=True):
        said.setdefault((baseline, treatment), set()).add(verdict)
    if (one, other) in said:
        return said[one, other]
    if (other, one) in said:
        return {{"faster": "slower", "slower": "faster"}.get(verdict, verdict) for verdict in said[other, one]}
    leads, arms = _tpot_intervals(lead), _tpot_intervals(arm)
    shared = [(*leads[cell], *arms[cell]) for cell in leads.keys() & arms.keys()]
    if shared and all(high < low_arm for _, high, low_arm, _ in shared):
        return {"faster"}
    if shared and all(low > high_arm for low, _, _, high_arm in shared):
        return {"slower"}
    return {"inconclusive"}


def _tpot_intervals(pair: pd.DataFrame) -> dict[tuple, tuple[float, float]]:
    """(tp, qps) -> the interval of the ratio of time per token."""
    rows = pair[pair.metric == "tpot"]
    return dict(zip(zip(rows.tp, rows.qps, strict=True), zip(rows.ci_low, rows.ci_high, strict=True), strict=True))


def _ratios(rows: pd.DataFrame) -> str:
    """'TPOT ratio 0.17 to 0.18, TTFT ratio 0.32 to 0.35'."""
    present = [metric for metric in METRICS if (rows.metric == metric).any()]
    return ", ".join(
        f"{metric.upper()} ratio {words.span(rows[rows.metric == metric].ratio, words.ratio)}" for metric in present
    )


def _sentence_of_few_blocks(rows: pd.DataFrame) -> str:
    baseline, treatment = _pair(rows)
    needed = "three blocks or more" if rows.blocks.max() < TIERS["quick"] else "another tier than smoke"
    return (
        f"Seen so far in {words.blocks(rows)}, {_the(treatment)} against {baseline}: {_ratios(rows)}. That shows that "
        f"every part works; a verdict needs {needed}."
    )


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


def _sentence_case(text: str) -> str:
    """A capital at the start, except where an arm's name stands there."""
    return text[0].upper() + text[1:] if text.split()[0] in ("the", "it") else text
