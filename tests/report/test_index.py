import json
import os
import re
import shutil

import pytest

from symmlib.analysis import words
from symmlib.errors import UsageError
from symmlib.report import make_index, publish
from symmlib.report.entry import entry
from symmlib.runs import write_json, write_text


@pytest.fixture
def reports(whole_run):
    """Three runs: one that went well, an older one that failed, a newer one whose manifest is damaged."""
    write_text(whole_run / "index.html", "the run's page")
    older = whole_run.with_name("20261101T000000Z-older-00000000")
    shutil.copytree(whole_run, older)
    manifest = json.loads((older / "manifest.json").read_text(encoding="utf-8"))
    manifest |= {"status": "failed", "reason": "failed: 04_serving & more", "profile": "older"}
    write_json(older / "manifest.json", manifest)
    (older / "index.html").unlink()
    write_text(whole_run.with_name("20261224T000000Z-newer-00000000") / "manifest.json", "{")
    return whole_run.parent.parent


def test_the_index_lists_all_runs_newest_first_with_what_was_found(reports):
    page = make_index(reports).read_text(encoding="utf-8")
    newer, whole, older = (page.index(name) for name in ("newer", ">synthetic<", ">older<"))
    assert newer < whole < older
    for phrase in (
        "Use the router: 5.7x faster",
        "preliminary: 3 blocks",
        "Invented CPU, 2 cores",
        "2026-11-23 22:10 UTC",
    ):
        assert phrase in page
    assert "abcdef0123 + uncommitted changes" in page
    assert 'href="runs/20261123T221005Z-synthetic-1a2b3c4d/index.html"' in page


def test_failed_and_unreadable_runs_are_listed_with_the_reason(reports):
    page = make_index(reports).read_text(encoding="utf-8")
    assert "failed: 04_serving &amp; more" in page
    assert "(no report was made)" in page
    assert "Not readable" in page and "cannot read" in page
    assert str(reports) not in page


def test_an_invalid_run_is_listed_with_its_failed_gates_in_one_line(reports, whole_run):
    manifest = json.loads((whole_run / "manifest.json").read_text(encoding="utf-8"))
    reason = "; ".join(f"trace (TP=2, QPS {n}): gloo served 12 calls" for n in range(50))
    write_json(whole_run / "manifest.json", {**manifest, "status": "invalid", "reason": reason})
    page = make_index(reports).read_text(encoding="utf-8")
    assert "gate “trace” failed in 1 measurement (gloo served 12 calls)" in page
    assert reason not in page


def test_a_run_is_listed_with_what_was_served_at_which_load_and_found_by_it(reports, whole_run):
    served = {"model": "/models/llama-70b", "tp": [2], "qps": [1]}
    write_json(whole_run / "raw" / "serving" / "experiment.json", served)
    found = entry(whole_run)
    assert (found.model, found.load) == ("llama-70b", "TP=2, QPS 4 and 8"), "what was compared, not what was asked for"
    assert found.tokens == ["tp=2", "qps=4", "qps=8"] and found.verdict == "faster"
    (whole_run / "raw" / "serving" / "experiment.json").unlink()  # as in a published run, which has no raw data
    (whole_run / "results" / "comparison.csv").unlink()
    asked = "{model: meta-llama/Llama-3.1-70B-Instruct, tp: [4, 8], qps: [1, 5, 10]}"
    write_text(whole_run / "params.yaml", f"parameters: {{04_serving: {asked}}}")
    found = entry(whole_run)
    assert (found.model, found.load) == ("meta-llama/Llama-3.1-70B-Instruct", "TP=4 and 8, QPS 1, 5 and 10")
    assert found.headline.startswith("Fastest all-reduce") and found.verdict == ""
    write_text(whole_run / "params.yaml", "parameters: {04_serving: odd}")
    assert entry(whole_run).load == "2 ranks" and entry(whole_run).tokens == ["ranks=2"]


def test_a_list_of_runs_that_are_alike_offers_no_choice_that_narrows_nothing(reports, whole_run):
    assert re.findall('<select id="([a-z]+)"', make_index(reports).read_text(encoding="utf-8")) == [
        "status", "verdict", "profile", "machine",
    ]  # fmt: skip
    for other in whole_run.parent.iterdir():
        if other != whole_run:
            shutil.rmtree(other)
    assert "<select" not in make_index(reports).read_text(encoding="utf-8")


def test_an_empty_index_says_how_to_make_a_run(tmp_path):
    assert "make report" in make_index(tmp_path).read_text(encoding="utf-8")


def test_publishing_copies_runs_keeps_those_already_there_and_can_be_repeated(reports, tmp_path):
    site = tmp_path / "site"
    write_text(site / "runs" / "20250101T000000Z-kept-00000000" / "manifest.json", "{}")
    first = publish(reports, site).read_text(encoding="utf-8")
    assert publish(reports, site).read_text(encoding="utf-8") == first
    assert "20250101T000000Z-kept-00000000" in first and ">synthetic<" in first
    assert (site / "runs" / "20261123T221005Z-synthetic-1a2b3c4d" / "results" / "comparison.csv").is_file()


def test_publishing_refuses_what_cannot_work(reports, tmp_path):
    with pytest.raises(UsageError, match="nothing to publish"):
        publish(tmp_path / "nowhere", tmp_path / "site")
    with pytest.raises(UsageError, match="lies inside"):
        publish(reports, reports / "runs" / "site")
    in_the_way = write_text(tmp_path / "file", "")
    with pytest.raises(UsageError, match="cannot write"):
        publish(reports, in_the_way)


def test_a_page_of_somebody_else_is_never_replaced(reports, tmp_path):
    theirs = write_text(tmp_path / "site" / "index.html", "their page")
    with pytest.raises(UsageError, match="is not one of symmlib's pages"):
        publish(reports, tmp_path / "site")
    assert theirs.read_text() == "their page" and not (tmp_path / "site" / "runs").exists()


def test_links_are_not_published_and_what_cannot_be_copied_is_named_beside_the_index(reports, whole_run, tmp_path):
    secret = write_text(tmp_path / "secret", "x")
    (whole_run / "raw" / "link").symlink_to(secret)
    (whole_run / "raw" / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(whole_run / "raw" / "pipe")
    with pytest.raises(UsageError, match=r"could not copy .*raw/pipe: it is no regular file"):
        publish(reports, tmp_path / "site")
    published = tmp_path / "site" / "runs" / whole_run.name
    assert ">synthetic<" in (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert [path.name for path in (published / "raw").iterdir()] == ["allreduce"]


@pytest.mark.parametrize("manifest", ["[]", "5", '{"steps": null, "hardware": 7, "git": [], "started": {}}'])
def test_a_damaged_neighbour_does_not_keep_the_others_from_the_index(reports, whole_run, manifest):
    write_text(whole_run.with_name("20261225T000000Z-odd-00000000") / "manifest.json", manifest)
    page = make_index(reports).read_text(encoding="utf-8")
    assert page.count("Not readable") == 2 and ">synthetic<" in page


def test_a_run_of_ranks_that_shared_a_gpu_is_marked(reports, one_gpu_run):
    shutil.copytree(one_gpu_run, reports / "runs" / "20261130T000000Z-one-gpu-00000000")
    assert make_index(reports).read_text(encoding="utf-8").count(words.ONE_GPU_MARK) == 1
