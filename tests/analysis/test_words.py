import pandas as pd
import pytest

from symmlib.analysis import words


@pytest.mark.parametrize(
    ("show", "value", "text"),
    [
        (words.times, 5.13, "5.1x"),
        (words.times, 66.2, "66x"),
        (words.percent, 6.486, "6.5 %"),
        (words.percent, 82.6, "83 %"),
        (words.microseconds, 0.61, "0.61 µs"),
        (words.microseconds, 3.08, "3.1 µs"),
        (words.microseconds, 205.3, "205 µs"),
        (words.microseconds, 13841, "13.8 ms"),
        (words.milliseconds, 2.753, "2.75 ms"),
        (words.milliseconds, 33.84, "33.8 ms"),
        (words.size, 65536, "64 KiB"),
        (words.size, 1482910, "1.41 MiB"),
        (words.ratio, 0.1949, "0.19"),
        (words.ratio, 0.9731, "0.973"),
    ],
)
def test_a_number_has_a_unit_and_the_digits_that_matter(show, value, text):
    assert show(value) == text


def test_large_changes_are_factors_and_small_ones_percentages():
    assert words.change(pd.Series([0.19, 0.2])) == ("5.0x to 5.3x", "faster")
    assert words.change(pd.Series([0.93])) == ("7.0 %", "faster")
    assert words.change(pd.Series([1.02, 1.05])) == ("2.0 to 5.0 %", "slower")


def test_cells_are_named_by_their_load():
    one_tp = pd.DataFrame({"tp": [2, 2], "qps": [8, 4]})
    two_tps = pd.DataFrame({"tp": [4, 8, 8], "qps": [1, 5, 10]})
    assert words.cells(one_tp) == "TP=2, QPS 4 and 8"
    assert words.cells(two_tps) == "TP=4 (QPS 1) and TP=8 (QPS 5 and 10)"


@pytest.mark.parametrize(
    ("gbps", "expected"), [(0.9781, "0.978 GB/s"), (5.987, "5.99 GB/s"), (99.4, "99.4 GB/s"), (1013.2, "1013 GB/s")]
)
def test_bandwidths_have_three_digits_and_no_exponent(gbps, expected):
    assert words.bandwidth(gbps) == expected


@pytest.mark.parametrize(("counts", "expected"), [([1], "1 block"), ([3, 3], "3 blocks"), ([2, 3], "2 to 3 blocks")])
def test_blocks_are_counted(counts, expected):
    assert words.blocks(pd.DataFrame({"blocks": counts})) == expected


def test_the_banner_is_due_where_ranks_of_any_row_shared_a_gpu():
    assert words.banner(["sm_90", "sm_90/one-gpu"]) == words.ONE_GPU_BANNER
    assert words.banner(["sm_90", "cpu", None, float("nan")]) == words.banner([]) == ""
    old = pd.DataFrame({"backend": ["gloo"]})
    assert words.banner(old.get("device", ())) == ""
