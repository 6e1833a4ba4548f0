"""No file, name or parameter makes the suite crash, or write where it should not: see `properties`."""

import pytest
from found import FOUND
from hypothesis import HealthCheck, given, settings
from properties import PROPERTIES, holds

# The same inputs each time: a test that fails now and then teaches nobody anything. scripts/fuzz.py searches on.
FIXED = settings(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("name", PROPERTIES)
def test_whatever_is_read_is_refused_in_words_or_sound_and_nothing_else_is_touched(name):
    @settings(FIXED, max_examples=PROPERTIES[name].examples)
    @given(PROPERTIES[name].strategy)
    def check(value):
        holds(name, value)

    check()


@pytest.mark.parametrize("name", dict(FOUND))
def test_what_once_made_the_suite_crash_does_no_longer(name):
    for _, value in (one for one in FOUND if one[0] == name):
        holds(name, value)
