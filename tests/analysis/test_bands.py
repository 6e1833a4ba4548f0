"""The band in words: how wide, and whether it was measured or assumed."""

import pandas as pd
import pytest

from symmlib.analysis import bands
from symmlib.analysis.serving import FLOOR_COLUMNS


def compared(**deltas: float) -> pd.DataFrame:
    """A comparison with one row per metric; its `delta` is the metric's."""
    rows = [{"metric": metric, "delta": delta} for metric, delta in deltas.items()]
    return pd.DataFrame(rows).assign(
        tp=2, qps=4, statistic="median", baseline="gloo", treatment="router", ratio=0.9, blocks=6, tier="standard",
        verdict="faster",
    )  # fmt: skip


def floor(source="", blocks=6, **deltas: float) -> pd.DataFrame:
    rows = [[metric, "median", delta, blocks, 2, source] for metric, delta in deltas.items()]
    return pd.DataFrame(rows, columns=[*FLOOR_COLUMNS, "source"])


@pytest.mark.parametrize(
    ("delta", "text"), [(0.03, "±3 %"), (0.0142, "±1.4 %"), (0.01, "±1 %"), (0.123, "±12 %"), (1.2, "±120 %")]
)
def test_the_width_of_a_band_in_words(delta, text):
    assert bands.width(delta) == text


def test_without_an_aa_experiment_the_band_is_assumed():
    said = "The band is assumed: ±3 %; symmlib serve --aa measures it."
    assert bands.origin(compared(ttft=0.03, tpot=0.03)) == said
    assert bands.origin(compared(ttft=0.03, tpot=0.03), floor()) == said


def test_a_comparison_of_an_earlier_version_has_the_band_of_three_percent():
    old = compared(tpot=0.5).drop(columns="delta")
    assert bands.with_delta(old)["delta"].to_list() == [0.03]
    assert bands.origin(old) == "The band is assumed: ±3 %; symmlib serve --aa measures it."


def test_a_measured_band_names_the_blocks_and_the_source():
    table = compared(ttft=0.0142, tpot=0.0142)
    assert bands.origin(table, floor(ttft=0.0142, tpot=0.0142)) == (
        "The band is ±1.4 %, measured by an A/A experiment (6 blocks)."
    )
    assert bands.origin(table, floor("run 7", blocks=3, ttft=0.0142, tpot=0.0142)) == (
        "The band is ±1.4 %, measured by an A/A experiment (3 blocks, run 7)."
    )


def test_bands_that_differ_are_named_by_metric():
    assert bands.origin(compared(ttft=0.05, tpot=0.01), floor(ttft=0.05, tpot=0.01)) == (
        "The band is ±5 % for TTFT and ±1 % for TPOT, measured by an A/A experiment (6 blocks)."
    )


def test_what_the_aa_experiment_did_not_measure_is_said_to_be_assumed():
    assert bands.origin(compared(ttft=0.03, tpot=0.012), floor(tpot=0.012)) == (
        "The band is ±1.2 % for TPOT, measured by an A/A experiment (6 blocks); assumed: ±3 % for TTFT; "
        "symmlib serve --aa measures it."
    )


def test_a_floor_that_did_not_judge_the_rows_is_not_their_origin():
    assert bands.origin(compared(tpot=0.03), floor(tpot=0.012)).startswith("The band is assumed: ±3 %")


def test_without_rows_there_is_nothing_to_say():
    assert bands.origin(None) == bands.origin(compared(tpot=0.03).iloc[:0]) == ""
