"""Run the study of docs/serving-statistics.md: `.venv/bin/python scripts/study_verdicts.py [REPETITIONS]`, minutes.

Writes docs/verdict-study.csv and docs/verdict-study.svg, and prints the table as the page has it.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from symmlib.analysis.verdict_study import study

DOCS = Path(__file__).parent.parent / "docs"


def main(repetitions: int) -> None:
    found = study(repetitions)
    found.round(5).to_csv(DOCS / "verdict-study.csv", index=False)
    draw(found, DOCS / "verdict-study.svg")
    print("| truth | blocks | cells × metrics | band | any metric | per metric | per metric, old rule |")
    print("|---|---|---|---|---|---|---|")
    for row in found.itertuples():
        print(
            f"| {row.setting} | {blocks_of(row)} | {row.cells} × {row.families} | {row.band} | {row.any_family:.1%} "
            f"| {row.per_family:.1%} | {row.per_family_old:.1%} |"
        )


def blocks_of(row) -> str:
    return f"{row.first_look} + {row.blocks - row.first_look}" if row.first_look else str(row.blocks)


def draw(found: pd.DataFrame, path: Path) -> None:
    plt.rcParams.update({"svg.hashsalt": "symmlib", "svg.fonttype": "none", "font.size": 10})
    figure, panels = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    parts = found[found["true_ratio"] == 1], found[found["true_ratio"] != 1]
    for axes, rows, bound in zip(panels, parts, (5, 90), strict=True):
        names = [f"{row.setting.capitalize()}, {blocks_of(row)} blocks, {row.band}" for row in rows.itertuples()]
        axes.axvline(bound, color="0.6", linewidth=1)
        axes.plot(100 * rows["per_family_old"], names, "s", color="0.5", label="one metric, the old rule")
        axes.plot(100 * rows["per_family"], names, "o", color="C0", label="one metric")
        if (rows["families"] > 1).any():
            axes.plot(100 * rows["any_family"], names, "D", color="C1", label="any of two metrics")
        axes.invert_yaxis()
    panels[0].set_title("Equal arms called different")
    panels[0].set_xlabel("share, % (line: 5)")
    panels[1].set_title("True effects found")
    panels[1].set_xlabel("share, % (line: 90)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 1000)
