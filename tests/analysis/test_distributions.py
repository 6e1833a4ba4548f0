import numpy as np
import pandas as pd
import pytest

from symmlib.analysis import words
from symmlib.analysis.distributions import STEPS, counting, curve, quantiles


def test_the_curve_says_for_each_time_how_many_per_cent_are_at_most_that():
    times, shares = curve(pd.Series([3.0, 1.0, 2.0, 2.0]))
    assert list(times) == [1, 2, 2, 3] and list(shares) == [25, 50, 75, 100]


def test_a_curve_of_many_requests_keeps_its_ends_and_few_steps():
    values = pd.Series(np.random.default_rng(1).permutation(np.arange(1, 5001)).astype(float))
    times, shares = curve(values)
    assert len(times) == STEPS and times[0] == 1 and times[-1] == 5000
    assert np.allclose(shares, 100 * times / 5000)


def test_a_quantile_needs_ten_requests_beyond_it_on_either_side():
    told = quantiles(pd.Series(np.arange(100.0)))
    assert told[0.5] == pytest.approx(49.5) and told[0.9] == pytest.approx(89.1)
    assert np.isnan(told[0.95]) and np.isnan(told[0.99])
    assert not np.isnan(quantiles(pd.Series(np.arange(1000.0)))[0.99])
    assert all(np.isnan(value) for value in quantiles(pd.Series([], dtype=float)).values())


def test_an_arm_counts_where_it_takes_part_in_a_valid_comparison():
    requests = pd.DataFrame({"tp": 2, "qps": [4, 4, 4, 8], "arm": ["a", "b", "c", "a"], "ttft_ms": 1.0})
    rows = [(4, "a", "b", "faster"), (4, "a", "c", "invalid"), (8, "a", "b", "invalid")]
    comparison = pd.DataFrame(rows, columns=["qps", "baseline", "treatment", "verdict"]).assign(tp=2)
    assert list(counting(requests, comparison)[["qps", "arm"]].itertuples(index=False, name=None)) == [
        (4, "a"),
        (4, "b"),
    ]
    assert len(counting(requests, None)) == 4


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0, "0"),
        (0.6123, "0.612"),
        (3.084, "3.08"),
        (9.996, "10.0"),
        (205.3, "205"),
        (13841.2, "13841"),
        (-0.0421, "-0.0421"),
    ],
)
def test_numbers_in_tables_have_the_three_digits_that_count(value, told):
    assert words.digits(value) == told
