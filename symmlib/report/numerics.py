"""The part of the page on how exact the all-reduces' sums are. Called by `page`."""

import pandas as pd

from symmlib.analysis.floats import NO_NUMBER, SHORT
from symmlib.analysis.numerics import FROM_OWN, WAYS, in_words, sentences
from symmlib.report import figures
from symmlib.report.contents import Contents
from symmlib.report.parts import Table, plot

NAMES = {"heavy_tailed": "heavy-tailed"}
SUMMARY_CAPTION = (
    "Distance from the float64 sum rounded once, in steps between neighbouring numbers (ulp). Repeated calls had the "
    "same inputs, in place and out of place in turn. Adds as: simulated ways to add that give the same bits"
)
KEPT = "kept"


def numerics(run: Contents) -> dict:
    """`sentences` on what was found, `plots` of distances, and the tables `special` and `table`; None without."""
    summary, histogram, special = (run.tables[name] for name in ("numerics", "ulp_histogram", "special_values"))
    if summary is None:
        return {"sentences": [], "plots": [], "special": None, "table": None}
    empty = pd.DataFrame(columns=["backend", "world_size", "dtype", "case", "expected", "got", "promised", "ok"])
    return {
        "sentences": sentences(summary, empty if special is None else special),
        "plots": [] if histogram is None else [plot("numerics", figures.numerics, histogram)],
        "special": None if special is None else special_table(special),
        "table": _summary_table(summary),
    }


def special_table(special: pd.DataFrame) -> Table:
    """A row a case, a column a backend: `KEPT`, or what came of it in which dtype; of the most ranks measured."""
    ranks = int(special.world_size.max())
    here = special[special.world_size == ranks]
    backends = list(dict.fromkeys(here.backend))
    rows = []
    for case, of_case in here.groupby("case", sort=False):
        wanted = of_case.drop_duplicates("dtype")
        got = {name: _differences(of_case[of_case.backend == name]) for name in backends}
        rows.append([case, _by_dtype(wanted.dtype, wanted.expected), *got.values()])
    caption = (
        f"Special values on {ranks} ranks. Ranks that a case does not name give 0, or what does not matter. What is "
        "promised for our own backends: the sum in fp32, in the order of ranks, rounded once, subnormals kept. "
        "Smallest: the smallest subnormal number"
    )
    return Table(caption, ["case", "promised", *backends], rows, wordy=True)


def _summary_table(summary: pd.DataFrame) -> Table:
    rows = [
        [
            f"{row.world_size:g}",
            row.backend,
            SHORT.get(row.dtype, row.dtype),
            NAMES.get(row.inputs, row.inputs),
            _percent(row.share_nearest),
            _steps(row.p99_ulp),
            _steps(row.max_ulp),
            f"{row.max_abs_error:.3g}" if pd.notna(row.max_abs_error) else "–",
            _yes(row.identical_repeats),
            _yes(row.identical_across_ranks),
            "; ".join(in_words(f"simulated/{name}", row.dtype) for name in _known(row.same_bits_as)),
            row.status if not row.reason else f"{row.status}: {row.reason}",
        ]
        for row in summary.itertuples()
    ]
    columns = ["ranks", "backend", "dtype", "inputs", "nearest", "p99", "most", "largest error", "calls alike",
               "ranks alike", "adds as", "status"]  # fmt: skip
    return Table(SUMMARY_CAPTION, columns, rows, frozenset({0, 4, 5, 6, 7}))


def _differences(rows: pd.DataFrame) -> str:
    """What a backend makes of a case: what was promised, or what else in which dtypes."""
    others = rows[~rows.ok.astype(bool)]
    if rows.empty:
        return "–"
    return _by_dtype(others.dtype, others.got, always=True) if len(others) else KEPT


def _by_dtype(dtypes: pd.Series, values: pd.Series, always: bool = False) -> str:
    """One value for all dtypes, or each with those that have it: '0 (bf16), inf (fp16, fp32)'."""
    having: dict[str, list[str]] = {}
    for dtype, value in zip(dtypes, values, strict=True):
        having.setdefault(value, []).append(SHORT.get(dtype, dtype))
    if len(having) == 1 and not always:
        return next(iter(having))
    return "; ".join(f"{value} ({', '.join(names)})" for value, names in having.items())


def _known(names) -> list[str]:
    return [name for name in str(names).split() if f"simulated/{name}" in WAYS | FROM_OWN]


def _steps(value: float) -> str:
    if pd.isna(value):
        return "–"
    return "NaN" if value >= NO_NUMBER else f"{value:,.0f}".replace(",", "\u00a0")


def _percent(share: float) -> str:
    return f"{100 * share:.{0 if share == 1 else 1}f} %" if pd.notna(share) else "–"


def _yes(value) -> str:
    return "–" if pd.isna(value) else "yes" if value else "no"
