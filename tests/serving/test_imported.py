"""Real files of other load generators, read into the suite's own tables."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from symmlib import cli
from symmlib.analysis import serving as analysis
from symmlib.errors import UsageError
from symmlib.serving.imported import import_results, read

DATA = Path(__file__).parent / "data"
GUIDELLM, AIPERF = DATA / "guidellm.json", DATA / "aiperf.jsonl"
VLLM, LENGTHS = DATA / "vllm-bench-serve.json", DATA / "vllm-lengths.json"
CELL = {"tp": 2, "qps": 8.0}


def another(place: Path, block: int, arm: str, slower: float) -> Path:
    """A further measurement: the real one at another time, its latencies times `slower`."""
    result = json.loads(VLLM.read_text())
    for name in ("ttfts", "latencies"):
        result[name] = [value * slower for value in result[name]]
    result["itls"] = [[gap * slower for gap in gaps] for gaps in result["itls"]]
    result["start_times"] = [start + 100 * block + slower for start in result["start_times"]]
    place.mkdir(exist_ok=True)
    (place / f"{block}-{arm}.json").write_text(json.dumps(result))
    return place / f"{block}-{arm}.json"


def test_guidellms_requests_have_the_latencies_that_guidellm_says_under_its_own_names():
    said = json.loads(GUIDELLM.read_text())["benchmarks"][0]["metrics"]
    summary = analysis.summarize(read(GUIDELLM)).set_index(["metric", "statistic"])
    ttft, per_request = said["time_to_first_token_ms"]["successful"], said["inter_token_latency_ms"]["successful"]
    assert summary.requests.iloc[0] == ttft["count"] == 179
    assert summary.value_ms["ttft", "mean"] == pytest.approx(ttft["mean"])
    assert summary.value_ms["ttft", "median"] == pytest.approx(ttft["median"])
    # What GuideLLM calls the inter-token latency of a request is our TPOT. It weighs requests by their tokens, all 32.
    assert summary.value_ms["tpot", "mean"] == pytest.approx(per_request["mean"])
    assert summary.value_ms["tpot", "median"] == pytest.approx(per_request["median"])
    # Ours ends with the last token, GuideLLM's with the connection.
    ends = said["request_latency"]["successful"]["mean"] * 1000
    assert 0.99 * ends < summary.value_ms["e2el", "mean"] <= ends
    assert summary.note["itl", "mean"] == "not recorded"


def test_a_file_of_vllms_benchmark_says_here_what_it_says_in_vllm():
    said = json.loads(VLLM.read_text())
    summary = analysis.summarize(read(VLLM)).set_index(["metric", "statistic"]).value_ms
    names = {"mean": "mean", "median": "median", "p90": "p90", "p95": "p95", "p99": "p99"}
    compared = 0
    for metric in analysis.METRICS:
        for statistic, theirs in names.items():
            ours = summary[metric, statistic]
            if pd.notna(ours):
                assert ours == pytest.approx(said[f"{theirs}_{metric}_ms"], rel=1e-9), (metric, statistic)
                compared += 1
    assert compared == 12  # of 104 requests no p95 and no p99: fewer than 10 lie beyond them


def test_aiperfs_requests_have_the_latencies_that_aiperf_says_under_its_own_names():
    said = json.loads((DATA / "aiperf-summary.json").read_text())
    result = read(AIPERF)
    summary = analysis.summarize(result).set_index(["metric", "statistic"])
    assert summary.requests.iloc[0] == said["request_count"]["avg"] == 39
    names = {
        "ttft": "time_to_first_token",
        "tpot": "inter_token_latency",
        "itl": "inter_chunk_latency",
        "e2el": "request_latency",
    }
    for metric, theirs in names.items():
        assert summary.value_ms[metric, "mean"] == pytest.approx(said[theirs]["avg"]), metric
        assert summary.value_ms[metric, "median"] == pytest.approx(said[theirs]["p50"]), metric
    requests = analysis.requests(result)
    failed = requests[requests["error"] != ""]
    assert len(failed) == said["error_request_count"]["avg"] == 1
    assert "No responses with actual content" in failed["error"].item() and failed["ttft_ms"].isna().all()


def test_requests_that_a_dying_server_left_unanswered_are_failed_ones():
    requests = analysis.requests(read(DATA / "vllm-cut.json"))
    assert (requests["error"] != "").sum() == json.loads((DATA / "vllm-cut.json").read_text())["failed"] == 12
    assert requests.loc[requests["error"] != "", ["ttft_ms", "tpot_ms", "e2el_ms"]].isna().all(axis=None)


def third(path: Path, number: int, into: Path) -> Path:
    """One of three parts of a real file's requests, as if each had been a block of its own."""
    result = json.loads(path.read_text())
    if "benchmarks" in result:
        requests = result["benchmarks"][0]["requests"]
        requests["successful"] = requests["successful"][number - 1 :: 3]
    else:
        result |= {key: value[number - 1 :: 3] for key, value in result.items()
                   if isinstance(value, list) and len(value) == 104}  # fmt: skip
    made = into / f"{path.stem}-{number}.json"
    made.write_text(json.dumps(result))
    return made


def test_two_arms_and_three_blocks_make_a_comparison_and_an_import_repeated_changes_nothing(tmp_path):
    for block in (1, 2, 3):
        import_results(third(VLLM, block, tmp_path), tmp_path, arm="gloo", block=block, **CELL)
        comparison = import_results(third(GUIDELLM, block, tmp_path), tmp_path, arm="router", block=block, **CELL)
    tables = {path.name: path.read_bytes() for path in (tmp_path / "results").iterdir()}
    assert len(pd.read_csv(tmp_path / "results" / "serving.csv")) == 104 + 179
    row = comparison.set_index(["metric", "statistic"]).loc[("ttft", "median")]
    assert (row.baseline, row.treatment, row.blocks) == ("gloo", "router", 3) and row.ratio > 1
    again = import_results(third(GUIDELLM, 2, tmp_path), tmp_path, arm="router", block=2, **CELL)
    pd.testing.assert_frame_equal(again, comparison)
    assert tables == {path.name: path.read_bytes() for path in (tmp_path / "results").iterdir()}


def test_arms_that_met_the_same_load_get_a_verdict(tmp_path):
    for block in (1, 2, 3):
        for arm, slower in (("gloo", 1), ("router", 2)):
            path = another(tmp_path, block, arm, slower)
            comparison = import_results(path, tmp_path / "out", arm=arm, block=block, **CELL)
    row = comparison.set_index(["metric", "statistic"]).loc[("ttft", "median")]
    assert (row.baseline, row.treatment, row.blocks) == ("gloo", "router", 3) and row.ratio == pytest.approx(2)
    assert row.verdict == "slower" and row.note == ""


def test_arms_that_met_another_load_or_rate_are_compared_but_not_judged(tmp_path):
    import_results(VLLM, tmp_path, arm="gloo", block=1, **CELL)
    import_results(LENGTHS, tmp_path, arm="router", block=1, **CELL)
    comparison = import_results(GUIDELLM, tmp_path, arm="fast", block=1, **CELL).set_index(["treatment", "metric"])
    assert set(comparison.verdict) == {"invalid"}
    assert "same load" in comparison.note["router", "ttft"].iloc[0]
    # Asked for 8/s, GuideLLM 0.8.1 sent 13.2: its ten workers draw the same Poisson gaps.
    assert "sent 13.25 requests/s where 8 were asked for" in comparison.note["fast", "ttft"].iloc[0]


def test_one_measurement_does_not_stand_for_two_arms(tmp_path):
    import_results(VLLM, tmp_path, arm="gloo", block=1, **CELL)
    with pytest.raises(UsageError, match="is block-1 of 'gloo' at TP=2, QPS 8 already"):
        import_results(VLLM, tmp_path, arm="router", block=1, **CELL)


def test_answers_that_were_not_streamed_or_timed_and_aiperfs_summary_are_refused_with_what_to_do(tmp_path):
    with pytest.raises(UsageError, match="profile_export.jsonl beside it"):
        read(DATA / "aiperf-summary.json")
    found = json.loads(GUIDELLM.read_text())
    found["benchmarks"][0]["requests"]["successful"][0]["info"]["timings"]["first_token_iteration"] = None
    (tmp_path / "g.json").write_text(json.dumps(found))
    with pytest.raises(UsageError, match=r"g.json has no time of a first token: the generator must stream"):
        read(tmp_path / "g.json")
    result = json.loads(VLLM.read_text())
    (tmp_path / "v.json").write_text(json.dumps(result | {"ttfts": [None, *result["ttfts"][1:]]}))
    with pytest.raises(UsageError, match=r"v.json lacks a time"):
        read(tmp_path / "v.json")
    (tmp_path / "a.jsonl").write_text(AIPERF.read_text().replace("time_to_first_token", "other"))
    with pytest.raises(UsageError, match="aiperf --streaming"):
        read(tmp_path / "a.jsonl")


def test_a_server_that_could_not_keep_up_is_found_out_here_too(tmp_path):
    import_results(GUIDELLM, tmp_path, arm="router", block=1, **CELL)
    gates = pd.read_csv(tmp_path / "results" / "gates.csv")
    assert set(gates.gate) == {"no failed requests", "same load", "rate asked for", "no growing queue"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is no JSON"),
        ("[]", "holds no result"),
        ("{}", "has no start_times"),
        ('{"benchmarks": []}', "holds 0 benchmarks"),
        ('{"benchmarks": [{"requests": {"successful": [{}], "errored": []}}]}', "is not the JSON of"),
        ('{"benchmarks": [{"requests": {"successful": [], "errored": []}}]}', "holds no request"),
    ],
)
def test_what_is_no_result_is_refused_by_its_name_and_nothing_is_lost(tmp_path, text, expected):
    out = tmp_path / "out"
    import_results(VLLM, out, arm="gloo", block=1, **CELL)
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(UsageError, match="bad.json") as error:
        import_results(tmp_path / "bad.json", out, arm="router", block=1, **CELL)
    assert expected in str(error.value)
    assert before == {path: path.read_bytes() for path in out.rglob("*.*")}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"block": 2}, "is block-1 of 'a/b' at TP=2, QPS 8 already"),
        ({"arm": "a-b"}, "would share its directory with 'a/b'"),
        ({"arm": "c", "baseline": "d"}, "the baseline 'd' was not imported"),
        ({"block": 21}, "block 21 one of 1 to 20"),
        ({"qps": 0}, "qps 0 above 0"),
    ],
)
def test_what_would_be_no_comparison_is_refused_before_anything_is_written(tmp_path, changes, expected):
    given = {"arm": "a/b", "block": 1, **CELL}
    import_results(VLLM, tmp_path, **given)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    with pytest.raises(UsageError) as error:
        import_results(VLLM, tmp_path, **given | changes)
    assert expected in str(error.value)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.*")}


def test_the_command_keeps_the_first_arm_and_compares_the_second(tmp_path, capsys):
    shutil.copy(GUIDELLM, tmp_path / "g.json")
    out = ["--tp", "2", "--qps", "8", "--out", str(tmp_path / "out")]
    assert cli.main(["serve", "import", str(VLLM), "--arm", "gloo", *out]) == 0
    assert "With a second arm" in capsys.readouterr().out
    assert cli.main(["serve", "import", str(tmp_path / "g.json"), "--arm", "router", *out]) == 0
    assert "router" in capsys.readouterr().out
    assert cli.main(["serve", "import", str(tmp_path / "none.json"), "--arm", "router", *out]) == 2
