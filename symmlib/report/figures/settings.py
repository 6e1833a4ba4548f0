"""Settings of all-reduces, (world size, dtype, mode), as figures name them in titles and in the tables behind them."""

import pandas as pd

from symmlib.analysis import words
from symmlib.analysis.allreduce import SETTING

SIZE = "message size per rank"


def setting_words(key: tuple, rows: pd.DataFrame) -> str:
    """'8 ranks', with dtype and mode where these differ in `rows`; `key` is a (world size, dtype, mode)."""
    differ = [str(value) for name, value in zip(SETTING[1:], key[1:], strict=True) if rows[name].nunique() > 1]
    return ", ".join([f"{key[0]} ranks", *differ])


def by_setting(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each setting, by its name in words, in the order in which settings first appear."""
    return {setting_words(key, rows): here for key, here in rows.groupby(SETTING, sort=False)}


def each(told: dict[str, str]) -> str:
    """What is told of each setting, alike ones together: '2 ranks: this; 4 and 8 ranks: that'."""
    places: dict[str, list[str]] = {}
    for where, what in told.items():
        places.setdefault(what, []).append(where)
    return "; ".join(f"{_together(names)}: {what}" for what, names in places.items())


def per_size(rows: pd.DataFrame, column: str, unit: str) -> pd.DataFrame:
    """The numbers behind a figure against size: a row per setting and size, `column` of each backend beside it."""
    several = rows.groupby(SETTING).ngroups > 1
    parts = []
    for where, here in by_setting(rows).items():
        table = here.pivot(index="bytes", columns="backend", values=column).sort_index()
        table = table.rename(columns=lambda name: f"{name}, {unit}")
        table.insert(0, SIZE, [words.size(size) for size in table.index])
        if several:
            table.insert(0, "on", where)
        parts.append(table)
    first = [*(["on"] if several else []), SIZE]
    names = [f"{name}, {unit}" for name in dict.fromkeys(rows.backend)]
    return pd.concat(parts, ignore_index=True)[[*first, *names]]


def _together(names: list[str]) -> str:
    """'4 ranks' and '8 ranks' as '4 and 8 ranks'."""
    if all(name.endswith(" ranks") for name in names):
        return f"{words.listed(name.removesuffix(' ranks') for name in names)} ranks"
    return words.listed(names)
