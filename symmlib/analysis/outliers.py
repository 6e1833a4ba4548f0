"""Launches in which one backend had a bad time at one size, for no reason that a launch tells: `tame` bounds them.

On two busy cores one launch in some twenty has such a point: 12 µs instead of 2 in all its 40 rounds, next to sizes and
backends as fast as ever. With five launches one such point makes a mean say anything.
"""

import warnings

import numpy as np

SPREADS = 8  # of what is usual around a point; spreads of rests from medians of few are too small, by up to a half
OWN_SPREADS = 2  # of the point's own few launches: where they all lie apart, the point is noisy and no launch is bad
MAD_OF_NORMAL = 1.4826  # the standard deviation of a normal distribution over its median absolute deviation
LEAST_LAUNCHES = 4  # of three, two may be odd
LEAST = 0.02  # of spread: five launches may agree by chance


def tame(log_us: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`log_us` (launches, backends, sizes; NaN where nothing was timed) without what stands apart, and where that was.

    A figure is its point's median over launches, plus what all backends of the launch share at that size (the median
    of their deviations), plus a rest. A rest is cut to `SPREADS` spreads of its backend's rests at this size and its
    neighbours, of all rests, or to `OWN_SPREADS` of those at this very size, whichever is largest. A spread is 1.4826
    times the median absolute rest. Points of fewer than 4 launches stay as they are.
    """
    if len(log_us) < LEAST_LAUNCHES:
        return log_us, np.zeros(log_us.shape, dtype=bool)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # "All-NaN slice": a backend that was not timed at a size
        usual = np.nanmedian(log_us, axis=0)
        shared = np.nanmedian(log_us - usual, axis=1, keepdims=True)
        rest = log_us - usual - shared
        distance = np.abs(rest)
        aside = np.pad(distance, ((0, 0), (0, 0), (1, 1)), constant_values=np.nan)
        near = np.concatenate([aside[:, :, :-2], aside[:, :, 1:-1], aside[:, :, 2:]])  # launches of three sizes
        own, around, everywhere = (
            MAD_OF_NORMAL * np.nan_to_num(spread)
            for spread in (np.nanmedian(distance, axis=0), np.nanmedian(near, axis=0), np.nanmedian(distance))
        )
    limit = np.maximum(OWN_SPREADS * own, SPREADS * np.maximum(around, max(everywhere, LEAST)))
    apart = (np.abs(np.nan_to_num(rest)) > limit) & ((~np.isnan(log_us)).sum(axis=0) >= LEAST_LAUNCHES)
    return np.where(apart, usual + shared + np.sign(rest) * limit, log_us), apart
