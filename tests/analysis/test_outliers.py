"""One bad launch at one size must not choose a backend; noise must stay noise."""

import numpy as np
import pandas as pd

from symmlib.analysis.crossovers import Timings, choose
from symmlib.analysis.outliers import tame


def noisy(seed: int, *, launches: int = 5, sigma: float = 0.05) -> np.ndarray:
    """Log times of 3 backends at 12 sizes: own noise, and 10 % that a launch's backends share at a size."""
    chance = np.random.default_rng(seed)
    shape = launches, 3, 12
    return chance.normal(0, sigma, shape) + chance.normal(0, 0.1, (launches, 1, 12)) + np.arange(12) / 2


def test_a_point_that_is_six_times_slower_in_one_launch_is_cut_and_named():
    log_us = noisy(0)
    log_us[4, 1, 3] += np.log(6)
    tamed, apart = tame(log_us)
    assert apart[4, 1, 3] and apart.sum() <= 2
    assert np.array_equal(tamed[~apart], log_us[~apart])
    assert tamed[4, 1, 3] < log_us[4, 1, 3] - 0.8


def test_a_launch_that_is_slow_for_all_its_backends_is_left_as_it_is():
    log_us = noisy(1)
    log_us[2] += 1
    assert not tame(log_us)[1].any()


def test_noise_is_hardly_ever_cut():
    cut = [tame(noisy(seed))[1].mean() for seed in range(200)]
    assert np.mean(cut) < 0.005


def test_a_size_that_is_noisy_in_all_launches_is_left_as_it_is():
    log_us = noisy(3, sigma=0.01)
    log_us[:, 1, 5] += [-0.5, 0.4, 0.1, -0.3, 0.5]
    assert not tame(log_us)[1].any()


def test_what_was_not_timed_stays_so_and_three_launches_tell_nothing():
    log_us = noisy(4)
    log_us[:, 2, 6:] = np.nan
    assert np.isnan(tame(log_us)[0][:, 2, 6:]).all()
    few = noisy(5, launches=3)
    few[0, 0, 0] += 3
    assert tame(few)[0] is few


def test_a_table_does_not_turn_on_one_bad_launch_at_one_size():
    """As measured: two-shot is a fifth faster at the middle sizes; one launch took 6 times as long at a small one."""
    middle = [0.0, 0.0, 0.0, 0.06, 0.07, 0.04, 0.21, 0.37, -0.05, -0.07]
    rows = [
        (launch, backend, 512 << place, np.exp(place / 2 + (slower * one if one < 2 else 1) + bad))
        for launch in range(1, 6)
        for place, slower in enumerate(middle)
        for backend, one in (("host/one_shot", 1), ("host/two_shot", 0), ("vllm/shm", 8))
        for bad in [1.8 * (launch == 5 and place == 1 and one == 1) + 0.01 * ((launch * 7 + place * 3 + one) % 5 - 2)]
    ]
    timings = Timings.of(pd.DataFrame(rows, columns=["launch", "backend", "bytes", "time_us"]))
    assert timings.tamed == ((5, "host/one_shot", 1024),)
    assert (
        choose(timings, incumbent="host/one_shot")
        == ["host/one_shot"] * 3 + ["host/two_shot"] * 5 + ["host/one_shot"] * 2
    )
