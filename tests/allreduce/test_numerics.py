"""How exact all-reduces are, on real ranks; and faults that must not pass."""

from pathlib import Path

import pandas as pd
import pytest

from symmlib import cli
from symmlib.allreduce import numerics
from symmlib.allreduce.numerics import DTYPES, measure_numerics
from symmlib.analysis.numerics import HISTOGRAM_COLUMNS, SPECIAL_COLUMNS, SUMMARY_COLUMNS
from symmlib.errors import UsageError

OURS = ("host/one_shot", "host/two_shot")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Two and three ranks; and where it was written."""
    out = tmp_path_factory.mktemp("numerics")
    return measure_numerics(out, world_size=(2, 3), backends=("gloo", *OURS)), out


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """gloo ends its launch, one_shot drops a rank every 50th call, two_shot raises."""
    out = tmp_path_factory.mktemp("faulty")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_FAULTS", "gloo=is killed,host/one_shot=drops,host/two_shot=raises")
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
        backends = ("gloo", *OURS)
        return measure_numerics(out, backends=backends, dtypes=("bfloat16",), worker="faulty_worker")


def test_every_backend_dtype_and_kind_of_input_has_its_row_and_its_files(measured):
    found, out = measured
    assert len(found.summary) == 2 * 3 * 3 * 4
    assert list(found.summary) == SUMMARY_COLUMNS and list(found.special) == SPECIAL_COLUMNS
    assert list(found.histogram) == HISTOGRAM_COLUMNS
    for name, table in [
        ("numerics", found.summary),
        ("special_values", found.special),
        ("ulp_histogram", found.histogram),
    ]:
        assert len(pd.read_csv(out / "results" / f"{name}.csv")) == len(table)
    shares = found.histogram.groupby(["backend", "world_size", "dtype", "inputs"])["share"].sum()
    assert shares.to_numpy() == pytest.approx(1)
    assert {"simulated/fp32_rank_order", "simulated/own_ring"} < {*found.histogram.backend}


def test_our_sums_are_those_in_fp32_and_rank_order_to_the_last_bit_again_and_again_on_all_ranks(measured):
    ours = measured[0].summary.query("backend in @OURS")
    assert (ours.status == "ok").all(), ours.reason.unique()
    assert ours.same_bits_as.str.split().map(lambda names: "fp32_rank_order" in names).all()
    assert ours.identical_repeats.all() and ours.identical_across_ranks.all() and (ours.repeats == 100).all()
    narrow = ours[ours.dtype != "float32"]
    assert (narrow[narrow.inputs != "cancelling"].share_nearest == 1).all()
    assert narrow.share_nearest.min() > 0.98  # where three ranks cancel, fp32 may round what is left before the end


def test_what_was_measured_is_kept_when_somebody_presses_ctrl_c(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_FAULTS", "gloo=is killed")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")

    def presses(line):
        if "Going on without gloo" in line:
            raise KeyboardInterrupt

    monkeypatch.setattr(numerics, "say", presses)
    with pytest.raises(KeyboardInterrupt):
        measure_numerics(tmp_path, backends=("host/one_shot", "gloo"), dtypes=("bfloat16",), worker="faulty_worker")
    kept = pd.read_csv(tmp_path / "results" / "numerics.csv")
    assert (kept.backend == "host/one_shot").sum() == 4 and (kept[kept.backend == "host/one_shot"].status == "ok").all()
    assert len(pd.read_csv(tmp_path / "results" / "special_values.csv"))


def test_special_values_are_as_promised(measured):
    special = measured[0].special
    ours = special[special.backend.isin(OURS)]
    assert ours.promised.all() and not special[special.backend == "gloo"].promised.any()
    assert ours.ok.all(), ours[~ours.ok].to_string()
    assert set(ours.dtype) == {*DTYPES} and ours.case.nunique() == 20
    assert measured[0].flagged == []


def test_a_backend_that_drops_a_rank_now_and_then_is_flagged_with_call_and_amount(faulty):
    rows = faulty.summary[faulty.summary.backend == "host/one_shot"]
    assert len(rows) == 4 and (rows.status == "failed").all() and not rows.identical_repeats.any()
    changed = "2 of 100 calls with the same inputs gave other bits than the first (call 50 and 100, on rank 0 and 1)"
    assert rows.reason.str.contains(changed, regex=False).all()
    assert rows.reason.str.contains("further from the float64 sum than any order of additions in bf16 explains").all()
    normal = rows[rows.inputs == "normal"].iloc[0]
    assert normal.max_abs_error > 1
    assert any("host/one_shot" in one and "call 50 and 100" in one for one in faulty.flagged)
    assert faulty.sentences[: len(faulty.flagged)] == faulty.flagged


def test_a_backend_that_ends_a_launch_or_raises_costs_its_own_rows(faulty):
    rows = faulty.summary.set_index("backend")
    assert rows.loc["gloo"].status == "failed" and "while summing by gloo" in rows.loc["gloo"].reason
    raised = rows.loc["host/two_shot"]
    assert raised.status == "failed" and "ValueError: numbers that only this test cannot add" in raised.reason
    assert {*faulty.special.backend} == {"host/one_shot"}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"dtypes": "bfloat16,float8"}, "float8"),
        ({"dtypes": "bfloat16,bfloat16"}, "one twice"),
        ({"backends": "gloo,host/on_shot"}, "host/on_shot"),
        ({"repeats": 0}, "repeats 0"),
        ({"world_size": 9}, "world_size 9"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_a_rank_starts(tmp_path, wanted, message):
    with pytest.raises(UsageError, match=message):
        measure_numerics(tmp_path, **wanted)
    assert not (tmp_path / "raw").exists()


def test_the_command_prints_what_was_found_and_fails_where_something_is_flagged(monkeypatch, tmp_path, capsys, faulty):
    asked = {}
    monkeypatch.setattr(
        "symmlib.allreduce.numerics.measure_numerics", lambda out, **given: asked.update(given) or faulty
    )
    assert cli.main(["numerics", "--world-size", "2", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "2 of 100 calls" in said and "Results:" in said and asked["repeats"] == 100
