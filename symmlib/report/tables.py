"""Tables as notebooks show them: where their numbers are no node's, with the words that say so."""

import pandas as pd
from pandas.io.formats.style import Styler

from symmlib.analysis import words


def captioned(table: pd.DataFrame, summary: pd.DataFrame) -> pd.DataFrame | Styler:
    """`table`, headed by `words.banner` if the ranks of `summary`, which it was made from, shared a GPU.

    Whole numbers and rounded ones are shown as they are; what is missing stays empty.
    """
    banner = words.banner(summary.get("device", ()))
    if not banner:
        return table
    return table.style.set_caption(banner).format(
        lambda value: f"{value:.6g}" if isinstance(value, float) else value, na_rep=""
    )
