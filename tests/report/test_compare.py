"""Runs side by side: what differs is said, another thing gets no ratio, and nothing looks like an experiment."""

import json
import re
import shutil

import pandas as pd
import pytest

from symmlib import cli
from symmlib.analysis import unpaired
from symmlib.errors import UsageError
from symmlib.report import compare
from symmlib.runs import PROJECT, write_csv, write_json, write_text

LOAD = {"model": "tiny", "input_len": 128, "output_len": 32, "prefix_len": 0, "duration_s": 7, "arms": ["gloo"]}
PUBLISHED = PROJECT / "reports" / "published" / "2026-11-24-h200-x2-nvlink"


@pytest.fixture
def first(whole_run):
    _experiment(whole_run, LOAD)
    write_text(whole_run / "index.html", "the run's page")
    return whole_run


@pytest.fixture
def other(first):
    """The same a day later, with another torch; its all-reduces took 1.1 times, its tokens twice as long."""
    path = first.with_name("20261124T221005Z-later-5e6f7a8b")
    shutil.copytree(first, path)
    _change(path, run_id=path.name, started="2026-11-24T22:10:05+00:00", versions={"torch": "2.14.0"})
    _scale(path, "allreduce_summary", "median_us", 1.1)
    _scale(path, "serving_summary", "value_ms", 2)
    return path


def test_times_stand_side_by_side_with_ratios_to_the_first_run(first, other):
    page = compare([first, other])
    assert page == first.parent.parent / f"compare-{first.name}-and-{other.name}.html"
    text = _text(page)
    assert "All-reduce: in 12 rows that both measured, B took 1.10 times as long as A" in text
    assert "Serving: in 24 rows that both measured, B took 2.00 times as long as A in the geometric mean" in text
    assert "gloo 1 KiB 100 µs 110 µs 1.10" in text
    assert "gloo mean TPOT 16.3 ms 32.6 ms 2.00" in text
    assert "The fastest backend is the same in A and B at all 3 sizes." in text


def test_what_is_known_to_differ_stands_above_all_numbers(first, other):
    text = _text(compare([first, other]))
    differ = text.index("version of torch 2.13.0 2.14.0")
    assert text.index("2026-11-23 22:10 UTC 2026-11-24 22:10 UTC") < text.index("What is the same in all")
    assert differ < text.index("What is the same in all") < text.index("The all-reduce alone, side by side")
    assert "Invented CPU" in text[text.index("What is the same in all") :]


def test_each_run_keeps_the_verdict_that_it_found_by_itself(first, other):
    page = compare([first, other])
    assert _text(page).count("Use the router: 5.7x faster per token than gloo") == 2
    assert f'href="runs/{other.name}/index.html"' in page.read_text(encoding="utf-8")


def test_runs_of_two_days_are_never_called_an_experiment(first, other):
    page = compare([first, other])
    text = _text(page)
    assert "unpaired, so no verdict between them" in text
    assert "The noise of each run, and whatever else changed between them, is in every ratio" in text
    assert "no interval and no p-value between runs" in text
    for word in ("95 %", "significant", "confidence", "exact p"):
        assert word not in text
    assert text.count("faster") == 2  # each run's own headline


def test_the_same_runs_give_the_same_bytes_that_load_nothing(first, other):
    page = compare([first, other]).read_text(encoding="utf-8")
    assert compare([first, other]).read_text(encoding="utf-8") == page
    assert not re.search(r"<(img|iframe)|<script src|https?://(?!www\.w3\.org)|@import", page)


def test_more_than_two_runs_stand_side_by_side(first, other, tmp_path):
    third = first.with_name("20261125T000000Z-third-00000000")
    shutil.copytree(first, third)
    _scale(third, "allreduce_summary", "median_us", 0.5)
    text = _text(compare([first, other, third], tmp_path / "three.html"))
    assert "gloo 1 KiB 100 µs 110 µs 1.10 50.0 µs 0.50" in text
    assert "C took 0.50 times as long as A" in text


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"model": "dummy-70b"}, "Another model was served (model: tiny in A, dummy-70b in B)"),
        ({"input_len": 550}, "Another workload was served (input_len: 128 in A, 550 in B)"),
    ],
)
def test_another_model_or_workload_is_told_loudly_and_gets_no_ratio(first, other, changed, told):
    _experiment(other, LOAD | changed)
    page = compare([first, other])
    text = _text(page)
    assert f"Not the same thing. {told}" in text and text.count(told) == 2  # as a notice, and among the sentences
    assert "Serving: NOT in ratio (another " in text
    assert "32.6 ms another" in text and "110 µs 1.10" in text


def test_a_workload_that_nobody_wrote_down_is_no_agreement(first, other):
    for run in (first, other):
        (run / "raw" / "serving" / "experiment.json").unlink()
    text = _text(compare([first, other]))
    assert "model: not recorded in A, not recorded in B" in text and "Serving: NOT in ratio" in text


def test_another_device_is_told_loudly_and_gets_no_ratio_at_all(first, other):
    _change(other, hardware={"cpu": {"model": "Invented CPU", "cores": 2}, "gpus": [{"name": "NVIDIA H200"}]})
    text = _text(compare([first, other]))
    assert "Not the same thing. Another device: A ran on Invented CPU, 2 cores, B on NVIDIA H200." in text
    assert "All-reduce: NOT in ratio (another device)" in text and "110 µs another device" in text
    assert "1.10" not in text


def test_another_dtype_or_tp_shares_no_row_and_is_told(first, other):
    _set(other, "allreduce_summary", "dtype", "float16")
    text = _text(compare([first, other]))
    assert "Another dtype: bfloat16 in A, float16 in B. No row of the all-reduces is in both." in text
    assert "1.10" not in text and "2.00" in text
    _set(other, "allreduce_summary", "dtype", "bfloat16")
    _set(other, "serving_summary", "tp", 4)
    text = _text(compare([first, other]))
    assert "Another TP: 2 in A, 4 in B. No row of serving is in both." in text


def test_ranks_that_shared_a_gpu_are_not_put_in_ratio_to_ranks_that_did_not(first, other):
    _set(first, "allreduce_summary", "device", "sm_90")
    _set(other, "allreduce_summary", "device", "sm_90/one-gpu")
    text = _text(compare([first, other]))
    assert "All-reduce: NOT in ratio (measured on sm_90/one-gpu)" in text
    assert "B: Ranks shared one GPU" in text


def test_an_arm_of_the_same_name_with_other_settings_is_not_put_in_ratio(first, other):
    routed = {"name": "router", "all_reduce": "router", "environment": {}}
    _experiment(first, LOAD | {"arms": ["gloo", routed]})
    _experiment(other, LOAD | {"arms": ["gloo", routed | {"environment": {"VLLM_X": "1"}}]})
    text = _text(compare([first, other]))
    assert "Another arm of the same name: router had other settings in B than in A." in text
    assert "Serving: in 16 rows" in text and "another arm of that name" in text


def test_times_that_a_gate_made_void_are_not_put_in_ratio(first, other):
    _set(other, "comparison", "verdict", "invalid")
    text = _text(compare([first, other]))
    assert "Serving: NOT in ratio (a gate says invalid)" in text


def test_a_run_with_nothing_in_common_is_refused_with_what_differs(first, other):
    _set(other, "allreduce_summary", "dtype", "float16")
    _set(other, "serving_summary", "tp", 4)
    with pytest.raises(UsageError, match=r"dtype: bfloat16 in the one, float16 in the other; TP: 2 in .* 4 in"):
        compare([first, other])
    assert not list(first.parent.parent.glob("compare-*"))


def test_a_run_without_results_is_refused(first, tmp_path):
    bare = first.with_name("20260101T000000Z-bare-00000000")
    write_json(bare / "manifest.json", json.loads((first / "manifest.json").read_text(encoding="utf-8")))
    with pytest.raises(UsageError, match="nothing that could stand beside"):
        compare([first, bare])


def test_fewer_than_two_runs_the_same_twice_and_what_is_no_run_are_refused(first, other, tmp_path):
    with pytest.raises(UsageError, match="at least two runs"):
        compare([first])
    with pytest.raises(UsageError, match="named twice"):
        compare([first, other, first])
    with pytest.raises(UsageError, match="no run's directory"):
        compare([first, tmp_path])


def test_a_file_of_somebody_else_is_never_replaced(first, other, tmp_path):
    theirs = write_text(tmp_path / "theirs.html", "their page")
    with pytest.raises(UsageError, match="not one of symmlib's pages"):
        compare([first, other], theirs)


def test_a_measured_run_beside_its_own_copy_shows_no_change_and_no_difference(tmp_path):
    copies = [tmp_path / "reports" / "runs" / name for name in ("one", "two")]
    for copy in copies:
        shutil.copytree(PUBLISHED, copy)
    text = _text(compare(copies))
    assert "Nothing that the runs wrote down." in text
    assert "times as long as A in the geometric mean (1.000), unpaired." in text
    assert "The fastest backend is the same in A and B at all" in text


def test_the_command_lays_runs_side_by_side_and_still_reports_one(first, other, tmp_path, capsys):
    assert cli.main(["report", "compare", str(first), str(other), "--out", str(tmp_path / "both.html")]) == 0
    assert "both.html" in capsys.readouterr().out and (tmp_path / "both.html").is_file()
    assert cli.main(["report", str(first), str(other)]) == 2
    assert "symmlib report compare" in capsys.readouterr().err
    assert cli.main(["report", "compare", str(first)]) == 2
    assert cli.main(["report", str(first), "--out", "x.html"]) == 2
    assert cli.main(["report", str(first)]) == 0
    assert (first / "index.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_value_is_in_ratio_only_where_the_first_run_has_it():
    key = ["backend", "bytes"]
    rows = pd.DataFrame({"backend": ["gloo", "router"], "bytes": [1, 1], "value": [2.0, 3.0], "on": "", "note": ""})
    found = unpaired.beside({"A": rows[:1], "B": rows.assign(value=[4.0, 5.0])}, key, {})
    assert found[found.run == "B"].ratio.tolist()[0] == 2.0
    assert found[found.run == "B"].ratio.isna().tolist() == [False, True]
    assert len(unpaired.common(found, "B")) == 1


def _experiment(run, load):
    write_json(run / "raw" / "serving" / "experiment.json", load | {"workload": "random tokens", "vllm": "0.32.0"})


def _change(run, **changes):
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    write_json(run / "manifest.json", manifest | changes)


def _set(run, name, column, value):
    path = run / "results" / f"{name}.csv"
    write_csv(path, pd.read_csv(path, keep_default_na=False).assign(**{column: value}))


def _scale(run, name, column, factor):
    path = run / "results" / f"{name}.csv"
    table = pd.read_csv(path)
    write_csv(path, table.assign(**{column: table[column] * factor}))


def _text(page) -> str:
    html = page.read_text(encoding="utf-8")
    html = re.sub(r"<style>.*?</style>|<svg.*?</svg>", "", html, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", "", html.replace("><", "> <")).replace("\u00a0", " ").split())
