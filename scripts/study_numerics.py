"""Measure what docs/numerics.md shows: `.venv/bin/python scripts/study_numerics.py [DIR]`, 2 minutes.

On 2 and 4 ranks of this machine's CPU. Writes docs/numerics.svg, and prints the tables as the page has them. With a
DIR, results are kept there.
"""

import sys
import tempfile
from pathlib import Path

import pandas as pd

from symmlib.allreduce.cases import INPUTS
from symmlib.allreduce.numerics import Numerics, measure_numerics
from symmlib.analysis.floats import SHORT
from symmlib.provenance import cpu
from symmlib.report import figures, svg
from symmlib.report.numerics import special_table

DOCS = Path(__file__).parent.parent / "docs"


def main(out: Path) -> None:
    found = measure_numerics(out, world_size=(2, 4))
    (DOCS / "numerics.svg").write_bytes(svg.titled(figures.numerics(found.histogram), "svg"))
    print(f"{cpu()['model']}:\n", *(f"* {sentence}." for sentence in found.sentences), sep="\n")
    print_errors(found)
    table = special_table(found.special)
    print_table(table.columns, table.rows)


def print_errors(found: Numerics) -> None:
    """Per world size and dtype a row for backends that are alike: what share is the nearest, and the largest error."""
    rows: dict[tuple, list[str]] = {}
    for (ranks, dtype, name), group in found.summary.groupby(["world_size", "dtype", "backend"], sort=False):
        by_input = group.set_index("inputs")
        cells = [cell(by_input.loc[kind]) if kind in by_input.index else "–" for kind in INPUTS]
        alike = "yes" if group.identical_across_ranks.eq(True).all() else "no"
        rows.setdefault((str(ranks), SHORT[dtype], *cells, alike), []).append(f"`{name}`")
    columns = ["ranks", "dtype", "backends", *(kind.replace("_", "-") for kind in INPUTS), "ranks alike"]
    order = {short: place for place, short in enumerate(SHORT.values())}
    listed = sorted(rows.items(), key=lambda row: (int(row[0][0]), order[row[0][1]]))
    print_table(columns, [[*key[:2], ", ".join(names), *key[2:]] for key, names in listed])


def cell(row: pd.Series) -> str:
    return "–" if pd.isna(row.max_ulp) else f"{100 * row.share_nearest:.0f} %, {row.max_abs_error:.2g}"


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    print()
    for row in [columns, ["---"] * len(columns), *rows]:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    if sys.argv[1:]:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory(prefix="symmlib-") as directory:
            main(Path(directory))
