"""A moment by which work should end, for whoever has a node for so long and no longer.

`--within MINUTES` sets it, in the environment, so that it also holds in notebooks' kernels. What has units of work (the
servers of an experiment) begins none that would not end in time; what is left runs when the same run is taken up again.
"""

import math
import os
import time

from symmlib.errors import UsageError

DEADLINE = "SYMMLIB_DEADLINE"  # seconds on this machine's monotonic clock, which all its processes share


def set_within(minutes: float | None) -> None:
    """From now on so many minutes are left; None: as many as it takes. Raises `UsageError` for no positive number."""
    if minutes is None:
        return
    if not 0 < minutes < math.inf:
        raise UsageError(f"--within {minutes:g} is not a positive number of minutes.")
    os.environ[DEADLINE] = str(time.monotonic() + 60 * minutes)


def left_s() -> float:
    """How many seconds are left; infinite where nobody set a deadline."""
    text = os.environ.get(DEADLINE)
    try:
        return float(text) - time.monotonic() if text else math.inf
    except ValueError:
        raise UsageError(
            f"{DEADLINE}={text!r} is no moment as --within sets it: seconds on the monotonic clock."
        ) from None
