import base64
import dataclasses
import hashlib
import json
import re
import shutil
import subprocess
import sys
from urllib.parse import unquote

import pandas as pd
import pytest

from symmlib import suite
from symmlib.analysis import words
from symmlib.errors import UsageError
from symmlib.report import contents, make_index, make_report, sections, style, timings
from symmlib.routing import Route, RoutingTable
from symmlib.runs import PROJECT, Run, write_csv, write_json, write_text
from tests.report.reader import Reader

LOADING = {"src", "srcset", "poster", "background", "action", "formaction", "data"}  # attributes that fetch
HOSTILE = '<script>alert("$x & y")</script>'


@pytest.fixture(scope="module")
def page(reported_run) -> str:
    return (reported_run / "index.html").read_text(encoding="utf-8")


def test_the_page_answers_in_the_order_in_which_people_ask(page):
    text = " ".join(Reader(page).text.split())
    order = [
        "Use the router: 5.7x faster per token than gloo",
        "preliminary: 3 blocks",
        "On this machine the router answers",
        "Use SYMMLIB_ALLREDUCE=router.",
        "Time per output token (TPOT) 19.",
        "time to first token: from sending a request",
        "TPOT ratio",
        "as good as no change: ±3 %",
        "median TTFT, ms",
        "median TPOT, ms",
        "TPOT of a request, ms",
        "the verdicts come from blocks",
        "Bus bandwidth (busbw) is",
        "router's path",
        "median time, µs",
        "bus bandwidth, GB/s",
        "the router picks host/one_shot up to 64 KiB",
        "crossover between 48 KiB and 80 KiB (95 %)",
        "At 1 held-out sizes",
        "How much of it is the all-reduce?",
        "All-reduce explains 74 to 88 % of the change in TPOT between gloo and router",
        "predicted: all-reduce alone",
        "7 to 10 % TTFT for TP=8",
        "this run",
        "gloo served 12 calls",
        "there is no CUDA device",
        "git checkout abcdef0123456789abcdef0123456789abcdef01",
        "symmlib run reports/runs/20261123T221005Z-synthetic-1a2b3c4d/params.yaml",
        "Invented CPU, 2 cores, 8 GiB",
        "results/allreduce_summary.csv",
        "notebooks/02_allreduce.ipynb",
        "raw/allreduce/launch-0",
    ]
    position = 0
    for phrase in order:
        assert phrase in text[position:], f"{phrase!r} is missing, or stands too early"
        position = text.index(phrase, position)


def test_the_same_files_give_the_same_bytes(page, reported_run):
    assert make_report(reported_run).read_text(encoding="utf-8") == page


def test_nothing_is_loaded_from_anywhere(page):
    reader = Reader(page)
    assert reader.all("script") == [{}] and not reader.all("iframe") and not reader.all("img")
    for tag, attributes in reader.tags:
        assert not LOADING & attributes.keys(), tag
        if "href" in attributes and tag == "link":
            assert attributes["href"].startswith("data:")
        if "href" in attributes and tag not in ("a", "link"):
            assert attributes["href"].startswith("#"), tag
    assert "@import" not in page
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    (policy,) = [meta["content"] for meta in reader.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    (source,) = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    assert f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'" in policy
    assert "'unsafe-inline'" not in policy.partition("script-src")[2]


def test_every_relative_link_leads_to_a_file_or_a_place_in_the_page(page, reported_run):
    reader = Reader(page)
    ids = {attributes["id"] for _, attributes in reader.tags if "id" in attributes}
    targets = [attributes["href"] for attributes in reader.all("a")]
    assert any("raw/" in target for target in targets)
    for target in targets:
        if target.startswith("#"):
            assert target[1:] in ids
        elif not target.startswith("https://github.com/vllm-project/vllm/pull/"):
            assert (reported_run / unquote(target)).is_file(), target


def test_every_figure_is_named_for_those_who_do_not_see_it(page):
    reader = Reader(page)
    pictures = reader.all("svg")
    assert len(pictures) == 2 * 9  # each wide and for phones
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for picture in pictures:
        assert picture["role"] == "img"
        for label in picture["aria-labelledby"].split():
            assert re.search(rf'id="{label}">[^<]{{20,}}<', page), f"{label} is not there, or says nothing"
    for use in re.findall(r'(?:href="#|url\(#)([^")]+)', page):
        assert use in ids
    assert page.count("How to read this.") == 9


def test_colours_follow_the_scheme_of_the_reader(page):
    pictures = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert not re.findall(r"#[0-9a-f]{6}\b", pictures), "a colour that no scheme can change"
    for name in set(re.findall(r"var\(--([a-z]+)\)", pictures)):
        assert name in style.COLOURS
    assert style.css_variables("light") in page
    assert "@media (prefers-color-scheme: dark)" in page and style.css_variables("dark") in page


def test_a_run_without_results_says_what_is_missing_and_why(bare_run):
    text = Reader(make_report(bare_run).read_text(encoding="utf-8")).text
    assert "Nothing was measured" in text
    assert "failed in part" in text
    assert "no server got ready" in text
    for name in ("allreduce_summary.csv", "routing.toml", "comparison.csv", "gates.csv"):
        assert name in text
    assert "step 02_allreduce was not reached" in text
    assert "7 to 10 % TTFT for TP=8" in text, "the published numbers need no measurement"


def test_what_the_profile_does_not_ask_for_is_no_failure(bare_run):
    write_text(bare_run / "params.yaml", "parameters: {03_routing: {}}\n")
    run = contents.read(bare_run)
    assert run.missing == [
        ("step 04_serving failed", "no server got ready"),
        (
            "results/regret.csv, results/router_cost.csv, check/results/allreduce_summary.csv, routing.toml",
            "step 03_routing was not reached",
        ),
    ]
    files = "results/serving_summary.csv, results/comparison.csv, results/gates.csv"
    assert (files, "step 04_serving is not part of this run's profile") in run.left_out


def test_a_noise_floor_is_read_where_there_is_one_and_missed_where_there_is_none(whole_run):
    run = contents.read(whole_run)
    assert run.tables["noise_floor"] is None and not run.missing
    assert "The band is assumed: ±3 %" in Reader(make_report(whole_run).read_text(encoding="utf-8")).text
    rows = [[metric, "median", 0.03, 6, 2, "run <1>"] for metric in ("ttft", "tpot")]
    columns = ["metric", "statistic", "delta", "blocks", "cells", "source"]
    write_csv(whole_run / "results" / "noise_floor.csv", pd.DataFrame(rows, columns=columns))
    text = Reader(make_report(whole_run).read_text(encoding="utf-8")).text
    assert "The band is ±3 %, measured by an A/A experiment (6 blocks, run <1>)." in text
    write_text(whole_run / "results" / "noise_floor.csv", "damaged")
    ((what, why),) = contents.read(whole_run).missing
    assert what == "results/noise_floor.csv" and "no column" in why


def test_the_table_of_comparisons_shows_each_row_s_band_and_that_of_older_files(whole_run, comparison):
    assert "band" in comparison_rows(whole_run)[0] and "±3\u00a0%" in comparison_rows(whole_run)[1]
    write_csv(whole_run / "results" / "comparison.csv", comparison.assign(delta=0.0142))
    assert "±1.4\u00a0%" in comparison_rows(whole_run)[1]


def comparison_rows(run_dir) -> list[list[str]]:
    table = sections.serving(contents.read(run_dir))["table"]
    return [table.columns, *table.rows]


@pytest.mark.parametrize(
    ("ran", "blocks", "suggested"),
    [(3, 3, 6), (15, 15, 20), (20, 20, None), (2, 3, None), (3, "3", None), (3, None, None)],
)
def test_more_blocks_are_suggested_where_those_asked_for_ran(whole_run, comparison, ran, blocks, suggested):
    write_csv(whole_run / "results" / "comparison.csv", comparison.assign(blocks=ran))
    write_json(whole_run / "raw" / "serving" / "experiment.json", {"blocks": blocks})
    # As where it was published: what servers left is not there to go on with.
    assert sections.suggested_blocks(contents.read(whole_run)) is None
    write_json(whole_run / "raw" / "serving" / "block-1" / "tp2-gloo" / "turn.json", {})
    assert sections.suggested_blocks(contents.read(whole_run)) == suggested


def test_the_page_says_how_to_add_the_blocks_that_are_suggested(whole_run):
    write_json(whole_run / "raw" / "serving" / "experiment.json", {"blocks": 3})
    assert "--blocks" not in Reader(make_report(whole_run).read_text(encoding="utf-8")).text
    write_json(whole_run / "raw" / "serving" / "block-1" / "tp2-gloo" / "turn.json", {})
    text = Reader(make_report(whole_run).read_text(encoding="utf-8")).text
    run_id = json.loads((whole_run / "manifest.json").read_text(encoding="utf-8"))["run_id"]
    assert f".venv/bin/symmlib run --resume reports/runs/{run_id} --blocks 6" in text
    assert "the section “suggested blocks”" not in text


def test_a_failed_step_is_told_by_the_file_that_it_leaves(bare_run):
    manifest = json.loads((bare_run / "manifest.json").read_text(encoding="utf-8"))
    write_json(bare_run / "manifest.json", {**manifest, "steps": {}})
    write_json(bare_run / "02_allreduce.failure.json", {"step": "02_allreduce", "reason": "rank 1 died"})
    assert "rank 1 died" in make_report(bare_run).read_text(encoding="utf-8")


@pytest.mark.parametrize("damage", ["", "tp,qps\n1,2\n", "\x00\x01", "backend\n", "many"])
def test_a_damaged_table_is_missing_with_the_reason(whole_run, allreduce_summary, damage):
    words = allreduce_summary.assign(bytes="many").to_csv(index=False)
    write_text(whole_run / "results" / "allreduce_summary.csv", words if damage == "many" else damage)
    run = contents.read(whole_run)
    ((what, why),) = run.missing
    assert run.tables["allreduce_summary"] is None
    assert what == "results/allreduce_summary.csv" and why.startswith("the file")


def test_a_routing_table_with_a_mistake_is_missing_with_the_mistake(whole_run):
    write_text(whole_run / "routing.toml", "schema = 1\n[[table]]\nsurprise = 3\n")
    ((what, why),) = contents.read(whole_run).missing
    assert what == "routing.toml" and "surprise" in why


def test_what_is_damaged_costs_its_part_and_not_the_page(whole_run):
    for name in ("results/comparison.csv", "results/serving_summary.csv", "routing.toml"):
        write_text(whole_run / name, "damaged")
    text = Reader(make_report(whole_run).read_text(encoding="utf-8")).text
    assert "Fastest all-reduce at 64 KiB: host/one_shot" in text
    assert "This run has no serving results and no routing table." in text


def test_what_was_not_measured_is_told_after_what_was_and_has_no_place_of_its_own(one_gpu_run, bare_run):
    html = (one_gpu_run / "index.html").read_text(encoding="utf-8")
    reader = Reader(html)
    sections = [attributes["id"] for attributes in reader.all("section") if "id" in attributes]
    assert sections == ["allreduce", "routes", "published", "missing", "provenance", "files"]
    assert re.findall(r'href="#(\w+)"', html.partition("<nav")[2].partition("</nav>")[0]) == sections
    assert "This run has no serving results and no gates." in reader.text
    empty = make_report(bare_run).read_text(encoding="utf-8")
    assert set(re.findall(r'<a href="#(\w+)"', empty)) <= set(re.findall(r'\bid="(\w+)"', empty))
    assert "This run has no serving results, no all-reduce results, no routing table and no gates." in empty


def test_an_invalid_run_shows_its_times_but_no_effect(whole_run, comparison):
    write_csv(whole_run / "results" / "comparison.csv", comparison.assign(verdict="invalid", note="two schedules"))
    reader = Reader(make_report(whole_run).read_text(encoding="utf-8"))
    assert "No verdict: every cell is invalid" in reader.text
    assert "gate “trace” failed in 1 measurement (gloo served 12 calls)" in reader.text
    assert "Use SYMMLIB" not in reader.text and "No comparison here is valid" in reader.text
    assert len(reader.all("svg")) == 2 * 7


def test_a_pair_without_a_prediction_is_told_with_the_reason(whole_run, prediction):
    graphs = prediction.assign(predicted_ms=None, explained=None, note="the servers used CUDA graphs")
    write_csv(whole_run / "results" / "prediction.csv", graphs)
    reader = Reader(make_report(whole_run).read_text(encoding="utf-8"))
    assert "No prediction for gloo and router; gloo and vllm/shm: the servers used CUDA graphs." in reader.text
    assert len(reader.all("svg")) == 2 * 8


def test_a_prediction_is_missed_only_where_arms_were_compared(whole_run):
    (whole_run / "results" / "prediction.csv").unlink()
    assert contents.read(whole_run).missing == [("results/prediction.csv", "step 04_serving was not reached")]
    assert "How much of it" not in Reader(make_report(whole_run).read_text(encoding="utf-8")).text
    (whole_run / "results" / "comparison.csv").unlink()
    assert "results/prediction.csv" not in dict(contents.read(whole_run).missing)


def test_the_terminal_says_what_the_page_begins_with(whole_run, comparison):
    write_csv(whole_run / "results" / "comparison.csv", comparison.assign(verdict=None, tier="smoke", note="nan"))
    page = Reader(make_report(whole_run).read_text(encoding="utf-8")).text
    sentences = suite.verdicts(Run.open(whole_run))
    assert len(sentences) > 1
    for sentence in sentences:
        assert sentence in page


def test_a_damaged_table_costs_the_terminal_its_part_too(whole_run):
    write_text(whole_run / "results" / "comparison.csv", "damaged")
    (sentence,) = suite.verdicts(Run.open(whole_run))
    assert sentence.startswith("host/one_shot sums 64 KiB")


def test_hostile_names_are_shown_and_never_obeyed(whole_run, comparison, serving_summary, allreduce_summary, gates):
    results = whole_run / "results"
    write_csv(results / "comparison.csv", comparison.replace({"treatment": {"router": HOSTILE}}))
    write_csv(results / "serving_summary.csv", serving_summary.replace({"arm": {"router": HOSTILE}}))
    write_csv(results / "allreduce_summary.csv", allreduce_summary.replace({"backend": {"vllm/shm": HOSTILE}}))
    write_csv(results / "gates.csv", gates.replace({"reason": {"gloo served 12 calls": HOSTILE}}))
    manifest = json.loads((whole_run / "manifest.json").read_text(encoding="utf-8"))
    manifest |= {"profile": HOSTILE, "topology": HOSTILE, "argv": [HOSTILE], "environment": {"VLLM_X": HOSTILE}}
    write_json(whole_run / "manifest.json", manifest)
    html = make_report(whole_run).read_text(encoding="utf-8")
    reader = Reader(html)
    assert len(reader.all("script")) == 1
    assert reader.text.count(HOSTILE) > 10
    assert not any(name.startswith("on") for _, attributes in reader.tags for name in attributes)


def test_a_page_of_ranks_that_shared_a_gpu_says_so_first_and_at_every_table_and_figure(one_gpu_run):
    html = (one_gpu_run / "index.html").read_text(encoding="utf-8")
    reader = Reader(html)
    text = " ".join(reader.text.split())
    assert (
        text.index("Fastest all-reduce at 64 KiB") < text.index(words.ONE_GPU_BANNER) < text.index("sums 64 KiB over")
    )
    captions = re.findall(r"<caption><span>([^<]+)", html)
    timed = [caption for caption in captions if caption.startswith(("Median time", "Time of", "Routes"))]
    assert len(timed) == 5 and all(caption.endswith(words.ONE_GPU_BANNER) for caption in timed)
    assert re.search(rf"through the router takes [^<]+ and 8 ranks\. {re.escape(words.ONE_GPU_BANNER)}</p>", html)
    described = re.findall(r"<desc id=[^>]+>([^<]+)<", html)
    assert sum(desc.endswith(words.ONE_GPU_BANNER) for desc in described) == 2 * 5  # all but the published numbers
    assert suite.verdicts(Run.open(one_gpu_run))[0] == words.ONE_GPU_BANNER


def test_a_page_of_a_node_carries_no_banner(page):
    assert words.ONE_GPU_BANNER not in page and "one GPU" not in page


def test_routes_of_ranks_that_shared_a_gpu_are_not_offered_to_every_server(one_gpu_run, page):
    text = " ".join(Reader((one_gpu_run / "index.html").read_text(encoding="utf-8")).text.split())
    assert "routers on a node do not use these routes" in text and "any server" not in text
    assert "makes any server on such a machine use these routes" in page


def test_sizes_are_shown_as_people_say_them(whole_run):
    table = RoutingTable.load(whole_run / "routing.toml").tables[0]
    routes = (Route(1634012, "host/one_shot", (1582473, 1670531)), Route(None, "host/two_shot"))
    RoutingTable((dataclasses.replace(table, routes=routes),)).save(whole_run / "routing.toml")
    text = Reader(make_report(whole_run).read_text(encoding="utf-8")).text.replace("\u00a0", " ")
    assert "up to 1.56 MiB" in text and "above 1.56 MiB" in text
    assert "crossover between 1.51 MiB and 1.59 MiB (95 %)" in text
    section = timings.routes(contents.read(whole_run))
    assert "1634012" not in str(section["table"].rows) and "1634012" in str(section["plots"][0].tables[0].rows)


def test_samples_that_a_published_run_keeps_compressed_are_read(one_gpu_run, tmp_path):
    copy = shutil.copytree(one_gpu_run, tmp_path / "copy")
    pd.read_csv(copy / "results" / "allreduce.csv").to_csv(copy / "results" / "allreduce.csv.gz", index=False)
    (copy / "results" / "allreduce.csv").unlink()
    assert "with its 95 % interval over 3 launches" in make_report(copy).read_text(encoding="utf-8")


@pytest.mark.parametrize("published", sorted((PROJECT / "reports" / "published").glob("*/index.html")))
def test_a_published_page_links_only_what_is_published_with_it(published):
    targets = [attributes["href"] for attributes in Reader(published.read_text(encoding="utf-8")).all("a")]
    files = [unquote(target) for target in targets if not target.startswith(("#", "https://"))]
    assert files and all((published.parent / file).is_file() for file in files)


def test_how_much_faster_than_vllms_way_is_told_with_its_interval(one_gpu_run, whole_run):
    html = (one_gpu_run / "index.html").read_text(encoding="utf-8")
    assert "Time of vllm/symm_mem over that of the best of ours" in html and "over 3 launches" in html
    assert "<td>2.00\u00a0(2.00\u00a0to\u00a02.00) triton/one_shot</td>" in html
    html = make_report(whole_run).read_text(encoding="utf-8")  # has no samples: ratios of medians, without intervals
    assert "Time of vllm/shm over that of the best of ours" in html and "<td>3.33 host/one_shot</td>" in html


def test_backends_that_did_not_run_are_named_with_the_sizes_and_ranks_where_they_did_not(one_gpu_summary):
    large = (one_gpu_summary.backend == "triton/one_shot") & (one_gpu_summary.bytes == 32 << 20)
    eight = (one_gpu_summary.backend == "triton/two_shot") & (one_gpu_summary.world_size == 8)
    never = one_gpu_summary.backend == "symm_mem/one_shot"
    failed = (large & (one_gpu_summary.world_size > 2)) | eight | never
    summary = one_gpu_summary.assign(status=one_gpu_summary.status.mask(failed, "failed"), reason="it hung")
    found = timings.not_run(contents.Contents(None, {}, {"allreduce_summary": summary}))
    assert [what for what, _ in found] == [
        "symm_mem/one_shot", "triton/one_shot at 32 MiB on 4 and 8 ranks", "triton/two_shot on 8 ranks",
    ]  # fmt: skip
    too_large = summary.assign(reason=[f"{size} bytes are more than it takes, 16384 bytes" for size in summary.bytes])
    told = dict(timings.not_run(contents.Contents(None, {}, {"allreduce_summary": too_large})))
    assert told["symm_mem/one_shot"] == "failed: 1024 bytes are more than it takes, 16\u00a0KiB", "sizes, in one line"
    one = summary[summary.world_size == 4]
    assert "triton/one_shot at 32 MiB" in dict(timings.not_run(contents.Contents(None, {}, {"allreduce_summary": one})))


def test_a_section_that_cannot_be_made_says_so_in_its_place_and_costs_no_other(whole_run):
    twice = pd.read_csv(whole_run / "results" / "allreduce_summary.csv")
    write_csv(whole_run / "results" / "allreduce_summary.csv", pd.concat([twice, twice]))  # a size twice: no one time
    text = " ".join(Reader(make_report(whole_run).read_text(encoding="utf-8")).text.split())
    at = text.index("This section could not be made: ")
    assert text.index("The all-reduce alone") < at < text.index("Which all-reduce the router picks")
    assert "median TTFT, ms" in text and "gloo served 12 calls" in text
    assert "the section “allreduce” of this page" in text
    assert "No answer could be made" in text
    assert "Use the router: 5.7x faster" in make_index(whole_run.parents[1]).read_text(), "which rests on other numbers"
    (whole_run / "results" / "comparison.csv").unlink()
    assert "No answer could be made" in make_index(whole_run.parents[1]).read_text()


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no run's directory"):
        make_report(tmp_path)
    write_text(tmp_path / "manifest.json", "{")
    with pytest.raises(UsageError, match="cannot read"):
        make_report(tmp_path)


def test_a_report_needs_neither_torch_nor_communicators(bare_run):
    program = (
        "import sys; from symmlib.report import make_report; make_report(sys.argv[1]); "
        "print([name for name in sys.modules if name in ('torch', 'vllm', 'numba', 'symmlib.communicators')])"
    )
    done = subprocess.run([sys.executable, "-c", program, bare_run], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
