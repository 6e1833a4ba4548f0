"""How long symmlib waits for what may never come: every bound, stretched by one number.

Each wait has a bound that is generous on two slow cores. Where it is not generous enough, or where one wants to know
sooner, SYMMLIB_PATIENCE=3 makes all of them three times as long, and 0.5 half. `docs/faults.md` lists them. What a
person sets as a parameter (`ready_timeout_s`, `timeout_s`) is taken as it is.
"""

import math
import os

from symmlib.errors import UsageError

PATIENCE = "SYMMLIB_PATIENCE"


def seconds(usual: float) -> float:
    """`usual` seconds times SYMMLIB_PATIENCE; raises `UsageError` where that is no positive number."""
    text = os.environ.get(PATIENCE, "1")
    try:
        factor = float(text)
    except ValueError:
        factor = math.nan
    if not 0 < factor < math.inf:
        raise UsageError(f"{PATIENCE}={text!r} is not a positive number: 1 waits as usual, 3 three times as long.")
    return usual * factor
