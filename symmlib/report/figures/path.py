"""The router's path through lines of backends, and the bands in which a change of backend may lie.

Drawn by the figures against message size that are given a routing table.
"""

import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from symmlib.analysis.allreduce import SETTING
from symmlib.report import style

PATH = {"color": style.COLOURS["ink"][0], "linewidth": 7, "alpha": 0.16, "solid_capstyle": "round"}  # wide, unmarked
BAND = {"color": style.COLOURS["grey"][0], "alpha": 0.35, "linewidth": 1}  # a line at least, however well it is known
READING = "The wide shade follows the backend that the router picks at each size"
READING_BAND = "a grey column is where the size at which it changes backends may lie (95 %)"


def draw_path(axes, here: pd.DataFrame, column: str, table_df: pd.DataFrame | None) -> None:
    """Draw, below all lines, the path of the router through `here`: the rows of one setting, `column` their heights.

    `table_df` as `symmlib.routing.show` gives it, or None for nothing. A size whose backend was not measured is passed
    over.
    """
    path = on_path(here, table_df)
    if len(path) > 1:
        (drawn,) = axes.plot(path.bytes, path[column], zorder=1, clip_on=False, **PATH)
        drawn.set_in_layout(False)  # as the lines that it follows


def draw_bands(axes, here: pd.DataFrame, table_df: pd.DataFrame | None) -> None:
    """Shade where changes of backend may lie, cut to the sizes of `here`, the rows of one setting."""
    for low, high in bands(here, table_df):
        axes.axvspan(low, high, zorder=0, **BAND)


def on_path(here: pd.DataFrame, table_df: pd.DataFrame | None) -> pd.DataFrame:
    """The rows of `here` whose backend the router picks at their size, in order of size."""
    routes = _routes(here, table_df)
    picked = [
        row.Index
        for row in here.itertuples()
        for route in routes.itertuples()
        if route.from_bytes <= row.bytes
        and (pd.isna(route.to_bytes) or row.bytes <= route.to_bytes)
        and route.backend == row.backend
    ]
    return here.loc[picked].sort_values("bytes")


def bands(here: pd.DataFrame, table_df: pd.DataFrame | None) -> list[tuple[int, int]]:
    """(from, to) in bytes of every crossover's interval within the sizes of `here`."""
    known = _routes(here, table_df).dropna(subset=["crossover_low"])
    least, most = here.bytes.min(), here.bytes.max()
    cut = [(max(int(row.crossover_low), least), min(int(row.crossover_high), most)) for row in known.itertuples()]
    return [(low, high) for low, high in cut if low < high]


def key_of(settings: list[pd.DataFrame], table_df: pd.DataFrame | None) -> list:
    """Handles for the key: of the path and of the bands, where any of `settings` has them."""
    handles = []
    if any(len(on_path(here, table_df)) > 1 for here in settings):
        handles.append(Line2D([], [], label="router's path", **PATH))
    if any(bands(here, table_df) for here in settings):
        handles.append(Patch(label="crossover, 95 %", **BAND))
    return handles


def reading(settings: list[pd.DataFrame], table_df: pd.DataFrame | None) -> str:
    """How to read what was drawn here, as a sentence to follow on others; empty where nothing was."""
    handles = key_of(settings, table_df)
    if not handles:
        return ""
    return f" {READING}; {READING_BAND}." if len(handles) == 2 else f" {READING}."


def _routes(here: pd.DataFrame, table_df: pd.DataFrame | None) -> pd.DataFrame:
    """The routes for the setting of `here`."""
    if table_df is None or here.empty:
        return pd.DataFrame(columns=["from_bytes", "to_bytes", "backend", "crossover_low", "crossover_high"])
    return table_df[(table_df[SETTING] == here[SETTING].iloc[0]).all(axis=1)]
