"""Crossovers, choices and regrets on timings whose truth is known."""

import numpy as np
import pandas as pd
import pytest

from symmlib.analysis import alpha_beta, crossovers
from symmlib.analysis.crossovers import Timings

SIZES = tuple(2**power for power in range(10, 21))


def timings(
    times: dict[str, list[float]], launches: int = 5, noise: float = 0.0, seed: int = 0, sizes=SIZES
) -> Timings:
    chance = np.random.default_rng(seed)
    exact = np.log(np.array(list(times.values()), dtype=float))
    return Timings(tuple(times), tuple(sizes), exact + chance.normal(0, noise, (launches, *exact.shape)))


def crossing(at: float) -> dict[str, list[float]]:
    """One constant, one proportional: level at `at` bytes."""
    return {"flat": [1.0] * len(SIZES), "steep": [size / at for size in SIZES]}


def test_samples_become_log_medians_by_launch_backend_and_size_with_gaps_where_nothing_was_timed():
    rows = [(1, "a", 8, 2.0), (1, "a", 8, 4.0), (1, "a", 8, 3.0), (1, "b", 8, 1.0), (2, "a", 16, 5.0)]
    found = Timings.of(pd.DataFrame(rows, columns=["launch", "backend", "bytes", "time_us"]))
    assert (found.backends, found.sizes) == (("a", "b"), (8, 16))
    assert np.exp(found.log_us[0, 0, 0]) == pytest.approx(3.0)
    assert np.isnan(found.log_us[1, 1]).all() and np.isnan(found.log_us[0, 0, 1])


@pytest.mark.parametrize("at", [3000, 2**15, 300_000])
def test_a_crossover_is_found_between_sizes_and_on_one(at):
    (found,) = crossovers.crossovers(timings(crossing(at), noise=1e-9), "steep", "flat")
    assert found.bytes == pytest.approx(at, rel=0.02)
    assert found.low <= at <= found.high


def test_every_upward_crossing_is_found_and_only_those():
    wave = {"a": [2, 1, 1, 2, 2, 1, 1, 2, 2, 2, 2], "b": [1.4] * 11}
    found = crossovers.crossovers(timings(wave, noise=1e-9), "a", "b")
    assert [one.bytes for one in found] == sorted(one.bytes for one in found)
    assert [SIZES[2] < one.bytes < SIZES[3] or SIZES[6] < one.bytes < SIZES[7] for one in found] == [True, True]


def test_one_launch_gives_a_crossover_without_an_interval():
    (found,) = crossovers.crossovers(timings(crossing(20_000), launches=1), "steep", "flat")
    assert (found.low, found.high) == (None, None)


def test_an_interval_that_runs_out_of_the_measured_sizes_is_not_resolved():
    level = {"a": [1.0] * len(SIZES), "b": [1.0] * len(SIZES)}
    found = [one for seed in range(5) for one in crossovers.crossovers(timings(level, noise=0.1, seed=seed), "a", "b")]
    assert found and not any(one.resolved for one in found if one.low == SIZES[0])


def test_the_band_covers_the_truth_as_often_as_it_says():
    at, covered = 30_000, []
    for seed in range(200):
        found = crossovers.crossover_near(timings(crossing(at), noise=0.05, seed=seed), "steep", "flat", at)
        covered.append(found.low <= at <= found.high)
    assert 0.90 <= np.mean(covered) <= 0.99


def test_a_choice_costs_nothing_where_it_is_the_best_and_its_ratio_where_not():
    two = timings({"a": [1.0] * 11, "b": [1.5] * 11})
    found = crossovers.regrets(two, dict.fromkeys(SIZES, "a") | {SIZES[3]: "b"})
    assert found["regret"].tolist() == pytest.approx([0, 0, 0, 0.5, 0, 0, 0, 0, 0, 0, 0])
    assert set(found["best"]) == {"a"}


def test_a_choice_among_level_backends_has_no_regret_on_average():
    level = {name: [1.0] * len(SIZES) for name in "abcd"}
    costs = [
        crossovers.regrets(timings(level, noise=0.1, seed=seed), dict.fromkeys(SIZES, "a"))["regret"].mean()
        for seed in range(40)
    ]
    assert abs(np.mean(costs)) < 0.02  # the fastest of four noisy times would look 10 % faster


def test_a_ratio_has_an_interval_over_launches():
    one_size = timings({"a": [2.0], "b": [1.0]}, noise=0.01, sizes=(8,))
    ratio, low, high = crossovers.ratio(one_size, "a", "b")
    assert low < ratio < high and ratio == pytest.approx(2, rel=0.03)


def test_models_move_the_bytes_that_their_algorithms_do():
    moved = {name: alpha_beta.bytes_moved(name, 1000, 4) for name in ("one_shot", "two_shot", "ring", "multimem")}
    assert moved == {"one_shot": 3000, "two_shot": 1500, "ring": 1500, "multimem": 1250}
