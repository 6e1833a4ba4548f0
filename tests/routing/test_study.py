"""A small version of the study in docs/routing-tables.md, whose figures are from 500 repetitions."""

from symmlib.routing.study import settings, study


def test_derived_tables_keep_what_the_study_says_of_them():
    found = study(40, noise=(0.05,), which=settings()[1:5]).set_index("setting")
    assert found["covered"].between(0.85, 1).all()
    assert (found["regret_mean"] < 0.01).all()
    assert (found["alternating"] == 0).all()
    assert (found["bounds"] >= 30).all()


def test_a_tie_makes_one_route_whatever_the_noise():
    tie = study(40, noise=(0.02, 0.10), which=settings()[-1:])
    assert (tie["alternating"] == 0).all()
    assert (tie["regret_mean"] == 0).all()
