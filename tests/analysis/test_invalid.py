"""The reasons against a measurement, kept short however many there are."""

import json

import pandas as pd

from symmlib.analysis import invalid
from symmlib.serving.arms import Arm
from symmlib.serving.gates import Measurement, check


def failed(gate: str, *reasons: str) -> pd.DataFrame:
    """Synthetic rows of gates.csv, one invalid measurement for each reason."""
    rows = [{"gate": gate, "cell": f"TP=2, QPS 4, block {n}", "status": "invalid", "reason": why} for n, why in
            enumerate(reasons, 1)]  # fmt: skip
    return pd.DataFrame(rows)


def late(ms: int) -> str:
    return f"0 requests differ in length; sent at most {ms} ms off the block's schedule"


def test_gates_are_named_with_how_often_they_failed_and_the_worst_of_the_first():
    rate = failed("achieved rate", "sent 3.54 requests/s where 4 were asked for")
    gates = pd.concat([rate, failed("sent on time", late(897), late(1258), late(280))])
    assert invalid.failures(gates) == (
        "gate “sent on time” failed in 3 measurements (at worst: sent at most 1258 ms off the block's schedule) and "
        "gate “achieved rate” in 1"
    )
    assert invalid.remedies(gates) == "Measure on a machine that does nothing else, or at lower rates."


def test_requests_that_differ_in_length_are_not_left_out():
    assert "2 requests differ" in invalid.failures(
        failed("same schedule", "2 requests differ in length; sent at most 1 ms")
    )


def test_a_long_reason_is_cut_and_many_failures_stay_one_line():
    gates = failed(
        "no failed requests", *(f"{n} of 64 requests failed; the first with: {'no ' * 200}" for n in range(40))
    )
    assert len(invalid.failures(gates)) < 220
    assert "in 40 measurements (such as: " in invalid.failures(gates)


def test_checks_that_passed_are_no_reason():
    passed = failed("same schedule", late(0)).assign(status="valid")
    assert invalid.failures(passed) == "" and invalid.remedies(passed) == ""
    assert invalid.failures(None) == ""


def test_without_gates_the_notes_of_the_comparison_say_why_but_not_how_often():
    notes = [f"same schedule: {late(897)}"] * 3 + [f"same schedule: {late(1090)}", "", "a hand-made note: x"]
    assert invalid.failures(None, notes) == (
        "gate “same schedule” failed (at worst: sent at most 1090 ms off the block's schedule) and a hand-made note: x"
    )


def test_every_gate_has_a_remedy(tmp_path):
    result = {"start_times": [1.0, 1.5], "input_lens": [8, 8], "output_lens": [2, 2], "ttfts": [0.1, 0.1],
              "itls": [[0.1], [0.1]], "errors": ["", ""], "duration": 1.0}  # fmt: skip
    path = tmp_path / "qps-2.json"
    path.write_text(json.dumps(result), encoding="utf-8")
    (tmp_path / "qps-2.schedule.json").write_text(json.dumps({"schedule_sha256": "a", "planned_s": [0.5, 1.0]}))
    (tmp_path / "qps-2.throttled.json").write_text("[]")
    checked = check([Measurement(block=1, arm=Arm.of("gloo"), tp=2, qps=2, path=path, trace=tmp_path / "trace")])
    assert set(checked.frame().gate) == set(invalid.REMEDIES)
