"""What one run of the smallest profile leaves behind: everything that a run of any profile has."""

import json
import re

import pandas as pd

from symmlib import notebooks


def test_every_notebook_ran_and_the_run_is_whole(smoke_run):
    manifest = json.loads((smoke_run / "manifest.json").read_text())
    assert {name: step["status"] for name, step in manifest["steps"].items()} == dict.fromkeys(notebooks.names(), "ok")
    assert manifest["status"] in ("ok", "invalid")  # a gate may find fault with a busy machine, which is its work
    executed = {path.stem for path in (smoke_run / "notebooks").glob("*.ipynb")}
    assert executed == set(notebooks.names())
    results = ("results/allreduce_summary.csv", "results/comparison.csv")
    for name in ("params.yaml", "routing.toml", "index.html", *results):
        assert (smoke_run / name).is_file(), name
    assert (smoke_run.parents[1] / "index.html").is_file()


def test_the_plug_in_served_the_servers_all_reduces_as_each_arm_intended(smoke_run):
    traces = smoke_run / "raw" / "serving" / "block-1"
    for arm in ("gloo", "router"):
        for rank in (0, 1):
            calls = json.loads((traces / f"tp2-{arm}" / "trace" / f"rank-{rank}.json").read_text())["calls"]
            served = {call["backend"] for call in calls}
            assert served == {"gloo"} if arm == "gloo" else served <= {"host/one_shot", "host/two_shot"}
            assert sum(call["calls"] for call in calls) > 100


def test_what_the_all_reduce_alone_would_change_stands_beside_what_was_measured(smoke_run):
    table = pd.read_csv(smoke_run / "results" / "prediction.csv")
    assert set(table["metric"]) == {"ttft", "tpot"}
    assert table["predicted_ms"].notna().all(), set(table["note"])
    times = pd.read_csv(smoke_run / "results" / "allreduce_summary.csv").pivot_table("median_us", "bytes", "backend")
    if (times["gloo"] > times[["host/one_shot", "host/two_shot"]].max(axis=1)).all():  # as on any CPU that is not busy
        assert (table["predicted_ms"] < 0).all()
    assert "How much of it is the all-reduce?" in (smoke_run / "index.html").read_text()


def test_both_arms_met_one_schedule_and_the_warm_up_another(smoke_run):
    block = smoke_run / "raw" / "serving" / "block-1"
    planned = {
        name: {json.loads((block / f"tp2-{arm}" / f"{name}.schedule.json").read_text())["schedule_sha256"]
               for arm in ("gloo", "router")}
        for name in ("warmup", "qps-4")
    }  # fmt: skip
    assert len(planned["qps-4"]) == len(planned["warmup"]) == 1 and planned["qps-4"] != planned["warmup"]
    gates = pd.read_csv(smoke_run / "results" / "gates.csv")
    for gate in ("no failed requests", "same schedule", "intended all-reduce"):  # others may find a machine too busy
        assert set(gates.loc[gates["gate"] == gate, "status"]) == {"valid"}, gates.to_string()


def test_the_notebook_says_where_it_was_and_how_many_requests_were_done(smoke_run):
    said = (smoke_run / "notebooks" / "04_serving.ipynb").read_text()
    assert re.search(r"block 1 of 1, server 2 of 2, \w+, TP=2, QPS 4: (\d+) of \1 requests", said)


def test_greedy_answers_are_the_same_whatever_sums_them(smoke_run):
    block = smoke_run / "raw" / "serving" / "block-1"
    assert (block / "tp2-gloo" / "greedy.json").read_text() == (block / "tp2-router" / "greedy.json").read_text()


def test_no_request_failed_and_each_arm_has_its_own(smoke_run):
    requests = pd.read_csv(smoke_run / "results" / "serving.csv")
    assert requests["error"].isna().all()
    assert set(requests["arm"]) == {"gloo", "router"}
    assert requests.groupby("arm").size().nunique() == 1
