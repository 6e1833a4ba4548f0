"""A moment by which work should end: set once, seen by every process that is started, refused where it is none."""

import math

import pytest

from symmlib import deadline
from symmlib.errors import UsageError


@pytest.fixture(autouse=True)
def nobody_set_one(monkeypatch):
    monkeypatch.delenv(deadline.DEADLINE, raising=False)
    yield


def test_without_one_there_is_all_the_time():
    deadline.set_within(None)
    assert deadline.left_s() == math.inf


def test_minutes_are_counted_from_when_they_are_set(monkeypatch):
    monkeypatch.setenv(deadline.DEADLINE, "")  # so that what is set is taken back
    monkeypatch.setattr("time.monotonic", lambda: 1000.0)
    deadline.set_within(2)
    monkeypatch.setattr("time.monotonic", lambda: 1030.0)
    assert deadline.left_s() == 90


@pytest.mark.parametrize("minutes", [0, -1, math.nan, math.inf])
def test_what_is_no_number_of_minutes_is_refused(minutes):
    with pytest.raises(UsageError, match="not a positive number of minutes"):
        deadline.set_within(minutes)


def test_a_moment_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv(deadline.DEADLINE, "tomorrow")
    with pytest.raises(UsageError, match="'tomorrow' is no moment"):
        deadline.left_s()
