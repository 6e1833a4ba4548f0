"""Paired items: the test against scipy's, the interval by simulation, and what n items can show by simulation, too."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from symmlib.analysis.paired_items import Paired, detectable, interval, mcnemar_p, verdict


def test_items_are_counted_by_what_became_of_them_in_both_arms():
    paired = Paired.of([1, 1, 1, 0, 0, 1], [1, 0, 0, 1, 0, 1])
    assert paired == Paired(both=2, only_baseline=2, only_treatment=1, neither=1)
    assert (paired.n, paired.discordant, paired.difference) == (6, 3, pytest.approx(-1 / 6))


def test_items_that_are_no_pairs_are_refused():
    with pytest.raises(ValueError, match=r"not \(2,\) and \(3,\)"):
        Paired.of([1, 0], [1, 0, 1])


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 1), (5, 0), (0, 6), (3, 9), (20, 20), (31, 12), (400, 470)])
def test_mcnemar_is_the_binomial_test_of_the_discordant_items(b, c):
    expected = binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar_p(Paired(50, b, c, 10)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "paired", [Paired(90, 0, 0, 10), Paired(80, 10, 3, 7), Paired(0, 20, 0, 0), Paired(1, 0, 5, 2)]
)
def test_the_interval_holds_the_difference_and_stays_among_differences(paired):
    low, high = interval(paired)
    assert -1 <= low <= paired.difference <= high <= 1
    assert high - low > 0.01


def test_without_discordant_items_the_interval_still_has_a_length():
    low, high = interval(Paired(95, 0, 0, 5))
    half = 1.959963984540054**2 / (100 + 1.959963984540054**2)  # the score's own solution for no discordant item
    assert (low, high) == (pytest.approx(-half, abs=1e-9), pytest.approx(half, abs=1e-9))


def test_arms_that_change_places_turn_the_interval_round():
    low, high = interval(Paired(70, 12, 4, 14))
    assert interval(Paired(70, 4, 12, 14)) == (pytest.approx(-high, abs=1e-9), pytest.approx(-low, abs=1e-9))


@pytest.mark.parametrize(
    ("n", "only_baseline", "only_treatment"),
    [(100, 0.02, 0.02), (100, 0.10, 0.02), (100, 0.25, 0.05), (40, 0.10, 0.10), (400, 0.03, 0.01)],
)
def test_the_interval_covers_the_true_difference_in_95_of_100_samples(n, only_baseline, only_treatment):
    chance = np.random.default_rng(7)
    shares = [0.6, only_baseline, only_treatment, 0.4 - only_baseline - only_treatment]
    samples = chance.multinomial(n, shares, size=4000)
    kinds, counts = np.unique(samples[:, 1:3], axis=0, return_counts=True)
    true = only_treatment - only_baseline
    covered = 0
    for (b, c), count in zip(kinds.tolist(), counts.tolist(), strict=True):
        low, high = interval(Paired(n - b - c, b, c, 0))
        covered += count * (low <= true <= high)
    assert 0.93 <= covered / len(samples) <= 0.99  # the counts are whole numbers, so it cannot be 0.95 everywhere


@pytest.mark.parametrize(
    ("n", "noise", "alpha"), [(100, 0.0, 0.05), (100, 0.04, 0.05), (40, 0.0, 0.05), (300, 0.02, 0.0125)]
)
def test_the_detectable_loss_is_found_in_80_of_100_simulated_comparisons(n, noise, alpha):
    loss = detectable(n, noise, alpha)
    chance = np.random.default_rng(11)
    samples = chance.multinomial(n, [noise / 2 + loss, noise / 2, 1 - noise - loss], size=4000)
    found = [mcnemar_p(Paired(n - b - c, b, c, 0)) < alpha and b > c for b, c, _ in samples.tolist()]
    assert np.mean(found) == pytest.approx(0.80, abs=0.02)  # three standard errors of 4000 samples


def test_a_hundred_items_without_noise_show_a_loss_of_some_eight_points():
    assert detectable(100) == pytest.approx(0.078, abs=0.002)  # 6 items must turn: 2 / 2^6 < 0.05


def test_more_items_show_less_and_noise_hides_more():
    assert detectable(1000) < detectable(100) < detectable(100, noise=0.1)


def test_too_few_items_show_nothing_and_say_so():
    assert math.isnan(detectable(5))  # five of five is 2 / 2^5 > 0.05
    assert "5 items could not show any" in verdict(Paired(5, 0, 0, 0), 1.0, math.nan)


def test_the_verdict_says_which_change_could_have_been_seen():
    paired = Paired(93, 1, 1, 5)
    said = verdict(paired, mcnemar_p(paired), detectable(paired.n))
    assert said == "no change detected; 100 items show one of 7.8 points or more (power 80 %)"


def test_a_change_is_worse_or_better_by_its_direction():
    assert verdict(Paired(50, 20, 1, 29), 1e-4, 0.08) == "worse"
    assert verdict(Paired(50, 1, 20, 29), 1e-4, 0.08) == "better"
