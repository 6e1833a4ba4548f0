"""Run the study of docs/routing-tables.md: `.venv/bin/python scripts/study_crossovers.py [REPETITIONS]`, some minutes.

Writes docs/crossover-study.csv and docs/crossover-study.svg, and prints the table as the page has it.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from symmlib.routing.study import study

DOCS = Path(__file__).parent.parent / "docs"


def main(repetitions: int) -> None:
    found = study(repetitions)
    found.round(5).to_csv(DOCS / "crossover-study.csv", index=False)
    draw(found, DOCS / "crossover-study.svg")
    print("| setting | noise | bounds | intervals that cover | median width, octaves | mean regret | alternating |")
    print("|---|---|---|---|---|---|---|")
    for row in found.itertuples():
        known = (f"{row.covered:.1%}", f"{row.octaves:.2f}") if row.bounds else ("–", "–")
        print(
            f"| {row.setting} | {row.noise:.0%} | {row.bounds} | {known[0]} | {known[1]} "
            f"| {row.regret_mean:.2%} | {row.alternating:.1%} |"
        )


def draw(found: pd.DataFrame, path: Path) -> None:
    settings = list(found.loc[found["bounds"] > 0, "setting"].unique())
    plt.rcParams.update({"svg.hashsalt": "symmlib", "svg.fonttype": "none", "font.size": 10})
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    left.axvspan(92, 98, color="0.9")
    left.axvline(95, color="0.6", linewidth=1)
    for (noise, rows), marker in zip(found.groupby("noise"), "osD", strict=False):
        rows = rows.set_index("setting").reindex(settings)
        left.plot(100 * rows["covered"], range(len(settings)), marker, label=f"{noise:.0%} noise")
        right.plot(100 * rows["regret_mean"], range(len(settings)), marker)
    left.set_yticks(range(len(settings)), settings)
    left.invert_yaxis()
    left.set_title("Intervals cover the true crossover", loc="left")
    left.set_xlabel("share of intervals, % (band: 92 to 98)")
    right.set_title("What the derived table costs", loc="left")
    right.set_xlabel("mean regret over sizes, %")
    right.axvline(1, color="0.6", linewidth=1)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 500)
