"""A small version of the study in docs/serving-statistics.md, whose figures are from 1000 experiments."""

import dataclasses

import pytest
from scipy import stats

from symmlib.analysis.verdict_study import COLUMNS, Setting, settings, study

EXPERIMENTS = 60
EQUAL, EFFECT = settings()[0], settings()[2]


@pytest.fixture(scope="module")
def found():
    return study(EXPERIMENTS, which=[EQUAL, EFFECT]).set_index(["setting", "band"])


def at_most(share: float, count: int) -> float:
    """The largest share of `count` that a true share of `share` gives by luck, once in a thousand."""
    return stats.binom.ppf(0.999, count, share) / count


def test_equal_arms_are_rarely_called_different(found):
    assert found.loc[(EQUAL.name, "A/A"), "per_family"] <= at_most(0.05, 2 * EXPERIMENTS)
    assert found.loc[(EQUAL.name, "assumed"), "per_family"] <= at_most(0.05, 2 * EXPERIMENTS)
    assert found.loc[(EQUAL.name, "assumed"), "any_family"] <= at_most(0.05, EXPERIMENTS)


@pytest.mark.parametrize("band", ["A/A", "assumed"])
def test_six_blocks_find_five_percent_where_the_old_rule_did_not(found, band):
    row = found.loc[(EFFECT.name, band)]
    assert (EFFECT.true_ratio, EFFECT.blocks, EFFECT.cells) == (0.95, 6, 1)
    assert 1 - row["per_family"] <= at_most(0.1, EXPERIMENTS)
    assert row["per_family"] > row["per_family_old"]


def test_the_old_rule_missed_most_true_effects_of_five_percent(found):
    assert found.loc[(EFFECT.name, "assumed"), "per_family_old"] <= at_most(0.31, EXPERIMENTS)


def test_a_study_gives_the_same_table_again():
    small = Setting("small", 0.9, 3, 1, ("tpot",))
    once, again = (study(3, which=[small]) for _ in range(2))
    assert once.equals(again) and list(once.columns) == COLUMNS


def test_who_looks_after_three_blocks_and_goes_on_finds_what_either_look_finds():
    once = Setting("small effect", 0.97, 6, 1, ("tpot",))
    last, either = (
        study(EXPERIMENTS, which=[dataclasses.replace(once, first_look=look)]).per_family for look in (0, 3)
    )
    assert (either > last).all()
