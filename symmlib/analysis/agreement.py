"""Do two servers give the same greedy tokens, and where they part, was it a close call?

Sums in another order round otherwise, so an arm may rightly choose another token where two are as good as even; it must
not where one is far ahead. The baseline, served a second time, says how much of it happens by itself: the noise floor.
"""

import math
from collections.abc import Iterable

import pandas as pd

from symmlib.analysis.paired_items import ALPHA, Paired, mcnemar_p

# A logit in bfloat16 has 8 significant bits: from 16 to 32 its neighbours lie 0.125 apart. Two logits that each come
# out one such step off move their gap by this much.
CLOSE_CALL = 0.25
COLUMNS = [
    "tp", "baseline", "treatment", "prompt", "tokens", "identical", "first_divergence", "gap", "logprob_difference",
]  # fmt: skip
SUMMARY_COLUMNS = [
    "tp", "baseline", "treatment", "prompts", "identical", "share_identical", "earliest_divergence",
    "median_divergence", "largest_gap", "not_close", "logprob_difference", "p_value", "verdict",
]  # fmt: skip
SAME, CLOSE, NOISE, CHANGED = "identical", "close calls only", "no more than the baseline itself", "changed"


def compare(baseline: list[dict], treatment: list[dict]) -> pd.DataFrame:
    """One row per prompt: whether the tokens are `identical`, else the position of the `first_divergence` (from 0).

    `baseline`, `treatment`: what `serving.agreement` kept. `gap`: by how many nats the baseline preferred its token to
    the next best where the two part. `logprob_difference`: the largest difference of the chosen token's logprob, over
    the positions before that, where both chose the same after the same. Raises `ValueError` for different prompts.
    """
    if len(baseline) != len(treatment):
        raise ValueError(f"{len(baseline)} and {len(treatment)} answers are not of the same prompts")
    rows = []
    for prompt, (first, second) in enumerate(zip(baseline, treatment, strict=True)):
        tokens = list(zip(first["token_ids"], second["token_ids"], strict=False))
        parted = next((at for at, (one, other) in enumerate(tokens) if one != other), None)
        alike = len(tokens) if parted is None else parted
        pairs = zip(first["logprobs"][:alike], second["logprobs"][:alike], strict=True)
        rows.append(
            {
                "prompt": prompt,
                "tokens": len(tokens),
                "identical": parted is None,
                "first_divergence": parted,
                "gap": math.nan if parted is None else first["gaps"][parted],
                "logprob_difference": max((abs(one - other) for one, other in pairs), default=0.0),
            }
        )
    return pd.DataFrame(rows, columns=COLUMNS[3:]).astype({"first_divergence": "Int64", "identical": bool})


def summarize(agreement: pd.DataFrame, floors: dict[int, tuple[str, str]]) -> pd.DataFrame:
    """One row per (tp, baseline, treatment) of `agreement`; columns: SUMMARY_COLUMNS.

    `floors`: tp -> (baseline, the same served again), whose row is the noise floor. `not_close`: sequences that part
    where the baseline was surer than `CLOSE_CALL`. `p_value`: McNemar's exact test, prompt by prompt, of whether the
    treatment parts so more often than the baseline does from itself; nan without a floor, and for the floor.

    `verdict`: `identical`; `close calls only`; `changed`, if a sequence parts that was no close call and the baseline
    itself has none such, or significantly fewer; else `no more than the baseline itself`.
    """
    keys = ["tp", "baseline", "treatment"]
    parts = {key: rows for key, rows in agreement.groupby(keys, sort=False)}
    found = []
    for (tp, baseline, treatment), rows in parts.items():
        floor = parts.get((tp, *floors.get(tp, ())))
        is_floor = floors.get(tp) == (baseline, treatment)
        sure = _not_close(rows)
        p = math.nan
        if floor is not None and not is_floor:
            p = mcnemar_p(Paired.of(~_not_close(floor), ~sure))
        places = rows["first_divergence"].dropna()
        found.append(
            {
                **dict(zip(keys, (tp, baseline, treatment), strict=True)),
                "prompts": len(rows),
                "identical": int(rows["identical"].sum()),
                "share_identical": float(rows["identical"].mean()),
                "earliest_divergence": places.min() if len(places) else pd.NA,
                "median_divergence": float(places.median()) if len(places) else math.nan,
                "largest_gap": float(rows["gap"].max()) if len(places) else math.nan,
                "not_close": int(sure.sum()),
                "logprob_difference": float(rows["logprob_difference"].max()),
                "p_value": p,
                "verdict": _verdict(rows, sure, None if floor is None or is_floor else _not_close(floor), p),
            }
        )
    return pd.DataFrame(found, columns=SUMMARY_COLUMNS).astype({"earliest_divergence": "Int64"})


def sentences(summary: pd.DataFrame, floors: Iterable[tuple[str, str]]) -> list[str]:
    """One sentence per comparison; `floors`: the pairs that are the noise floor."""
    said = []
    for row in summary.itertuples():
        pair = f"{row.treatment} and {row.baseline} at TP={row.tp:g}"
        start = f"{row.identical} of {row.prompts} sequences are identical"
        where = ""  # where all are identical, that is the verdict
        if row.identical < row.prompts:
            gap = f"the baseline was ahead by up to {row.largest_gap:.2g} nats where they part"
            where = f"; the earliest parts at token {row.earliest_divergence}, and {gap}: {row.verdict}"
        floor = " (noise floor)" if (row.baseline, row.treatment) in set(floors) else ""
        said.append(f"{pair}{floor}: {start}{where}.")
    return said


def _not_close(rows: pd.DataFrame) -> pd.Series:
    return (rows["gap"] > CLOSE_CALL).reset_index(drop=True)


def _verdict(rows: pd.DataFrame, sure: pd.Series, floor: pd.Series | None, p: float) -> str:
    if rows["identical"].all():
        return SAME
    if not sure.any():
        return CLOSE
    if floor is None or not floor.any():
        return CHANGED
    return CHANGED if p < ALPHA and sure.sum() > floor.sum() else NOISE
