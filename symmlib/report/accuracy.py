"""The part of the page on whether the answers are still right.

Called by `page`; the notebook 05_accuracy shows `beside_published`.
"""

import pandas as pd

from symmlib.analysis import words
from symmlib.analysis.accuracy import INVALID
from symmlib.analysis.agreement import sentences
from symmlib.analysis.paired_items import WORSE
from symmlib.analysis.published import SOURCE
from symmlib.report.contents import Contents
from symmlib.report.parts import Table

# lm_eval in the description of the pull request: Llama 3.1 70B on 4 B200, gsm8k, 5-shot, 100 items.
PUBLISHED = {"flexible-extract": (0.95, 0.0219), "strict-match": (0.90, 0.0302)}
PUBLISHED_ITEMS = 100
HOW = (
    "Paired items: answers that were right and became wrong (lost), or the reverse (won). The interval is Tango's for "
    "paired proportions (95 %), p McNemar's exact, adjusted by Holm over the arms. Beside “no change detected” stands "
    "the smallest loss that so many items show four times in five"
)


def answers(run: Contents) -> dict:
    """`scores` and `comparison` as tables, a `finding` in a sentence, and `agreement` in sentences; None and empty
    where the run has none."""
    scores, comparison = run.tables["accuracy"], run.tables["accuracy_comparison"]
    summary = run.tables["agreement_summary"]
    return {
        "finding": _finding(comparison) if comparison is not None else "",
        "scores": _scores(scores) if scores is not None else None,
        "comparison": _comparison(comparison) if comparison is not None else None,
        "agreement": sentences(summary, _floors(summary)) if summary is not None else [],
    }


def beside_published(accuracy: pd.DataFrame) -> pd.DataFrame:
    """The arms' accuracies (columns of accuracy.csv), and those of the pull request: `source` tells them apart."""
    published = [
        {"source": SOURCE, "tp": 4, "arm": "symmetric memory", "task": "gsm8k", "filter": filter_,
         "n": PUBLISHED_ITEMS, "correct": round(share * PUBLISHED_ITEMS), "accuracy": share, "stderr": stderr}
        for filter_, (share, stderr) in PUBLISHED.items()
    ]  # fmt: skip
    return pd.concat([accuracy.assign(source="this run"), pd.DataFrame(published)], ignore_index=True)[
        ["source", *accuracy.columns]
    ]


def _finding(comparison: pd.DataFrame) -> str:
    judged = comparison[~_is_floor(comparison) & (comparison["verdict"] != INVALID)]
    if judged.empty:
        return "Nothing can be said of the answers: no comparison is valid."
    baseline, items = judged["baseline"].iloc[0], f"{judged['n'].max():.0f} items"
    worse = judged[judged["verdict"] == WORSE]
    if len(worse):
        named = words.listed(dict.fromkeys(worse["treatment"]))
        return f"{named}: answers are worse than those of {baseline}. Do not serve with it before you know why."
    if judged["detectable"].isna().any():
        return f"No change of accuracy was detected in any arm, but {items} are too few to show one."
    least = f"{100 * judged['detectable'].max():.0f} points"
    return (
        f"No change of accuracy was detected in any arm against {baseline}, with {items}: a loss of {least} or more "
        "would have been seen four times in five."
    )


def _scores(accuracy: pd.DataFrame) -> Table:
    rows = [
        [
            row.source,
            row.arm,
            f"{row.tp:g}",
            row.task,
            row.filter,
            f"{row.n:g}",
            f"{row.accuracy:.2f}",
            f"± {row.stderr:.3f}",
        ]
        for row in beside_published(accuracy).itertuples()
    ]
    columns = ["source", "arm", "TP", "task", "filter", "items", "accuracy", "std. error"]
    return Table("Accuracy of each arm, and the published one", columns, rows, frozenset({2, 5, 6, 7}))


def _comparison(comparison: pd.DataFrame) -> Table:
    rows = []
    for row in comparison.itertuples():
        known = pd.notna(row.difference)
        rows.append(
            [
                f"{row.treatment} − {row.baseline}",
                f"{row.tp:g}",
                row.filter,
                f"{row.only_baseline:g} / {row.only_treatment:g} of {row.n:g}" if known else "–",
                f"{100 * row.difference:+.1f}" if known else "–",
                f"{100 * row.ci_low:+.1f} to {100 * row.ci_high:+.1f}" if known else "–",
                f"{row.p_holm:.2g}" if known else "–",
                f"{row.verdict}: {row.note}" if row.verdict == INVALID else row.verdict,
            ]
        )
    columns = ["treatment − baseline", "TP", "filter", "lost / won", "points", "95 % interval", "p", "verdict"]
    return Table(HOW, columns, rows, frozenset({1, 3, 4, 5, 6}), wordy=True)


def _is_floor(table: pd.DataFrame) -> pd.Series:
    """The rows of the baseline against itself, which `serving.accuracy` names by an 'again'."""
    return table["treatment"] == table["baseline"].str[:50] + " again"


def _floors(summary: pd.DataFrame) -> list[tuple[str, str]]:
    floors = summary[_is_floor(summary)]
    return list(zip(floors["baseline"], floors["treatment"], strict=True))
