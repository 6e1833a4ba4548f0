"""What is committed as measured follows from the samples committed beside it, and the claims made of it hold."""

import dataclasses
import subprocess
import sys

import pandas as pd
import pytest

from symmlib.allreduce import read_results
from symmlib.analysis.allreduce import against
from symmlib.cli import main
from symmlib.routing import RoutingTable
from symmlib.routing.derive import derive
from symmlib.runs import PROJECT

RUNS = sorted((PROJECT / "reports" / "published").glob("*/results/allreduce_summary.csv"))
POINT = ["backend", "world_size", "dtype", "mode", "bytes"]


@pytest.fixture(params=[path.parent.parent for path in RUNS], ids=lambda path: path.name)
def run(request):
    return request.param


def test_there_are_published_measurements():
    assert RUNS


def test_medians_are_those_of_the_samples(run):
    found = read_results([run])
    launches = found.timed.groupby([*POINT, "launch"]).time_us.median()
    medians = launches.groupby(POINT).median()
    summary = found.summary[found.summary.status == "ok"].set_index(POINT).median_us
    pd.testing.assert_series_equal(medians, summary.loc[medians.index], check_names=False)


def test_routes_are_those_that_the_samples_support(run):
    found = read_results([run])
    again, committed = derive(found.timed, source=found.source), RoutingTable.load(run / "routing.toml")
    for derived, kept in zip(again.tables, committed.tables, strict=True):
        assert [route.backend for route in derived.routes] == [route.backend for route in kept.routes]
        assert derived.source == kept.source and derived.device == kept.device
        for one, other in zip(derived.routes[:-1], kept.routes[:-1], strict=True):
            assert one.max_bytes == pytest.approx(other.max_bytes, rel=0.01)


def test_the_built_in_table_of_hopper_is_what_two_linked_h200_support(tmp_path):
    run = PROJECT / "reports" / "published" / "2026-11-24-h200-x2-nvlink"
    assert main(["routes", "derive", str(run), "--out", str(tmp_path / "routing.toml")]) == 0
    (derived,) = RoutingTable.load(tmp_path / "routing.toml").tables
    (builtin,) = RoutingTable.builtin("sm_90").tables
    assert derived.source in builtin.source
    assert dataclasses.replace(builtin, source=derived.source) == derived


def test_the_built_in_table_of_hopper_serves_what_was_measured_and_nothing_else():
    known = {"device": "sm_90", "world_size": 2, "dtype": "bfloat16", "mode": "graph", "multicast": False}
    table = RoutingTable.builtin()
    assert [route.backend for route in table.find(**known).routes] == ["triton/one_shot", "triton/two_shot"]
    for other in ({"mode": "eager"}, {"dtype": "float16"}, {"dtype": "float32"}, {"world_size": 4}, {"world_size": 8}):
        assert table.find(**known | other) is None
    assert table.find(**known | {"multicast": True}).source.startswith("vLLM 0.33.0")
    assert table.find(**known | {"device": "sm_90/one-gpu"}) is None


def test_the_tables_of_the_page_on_nvlink_follow_from_the_samples():
    page = (PROJECT / "docs" / "nvlink.md").read_text()
    script = [sys.executable, str(PROJECT / "scripts" / "nvlink_tables.py")]
    printed = subprocess.run(script, cwd=PROJECT, check=True, capture_output=True, text=True).stdout
    tables = printed.strip().split("\n\n")
    assert len(tables) == page.count("\n|---|") == 4
    for table in tables:
        assert table in page


def test_our_kernels_on_a_shared_h200_are_as_much_faster_than_vllms_way_as_the_readme_says():
    ratio = against(read_results([PROJECT / "reports" / "published" / "2026-11-24-h200-one-gpu"]).timed)
    assert set(ratio.world_size) == {2, 4, 8} and (ratio.launches == 5).all()
    assert (ratio.ci_low > 1.4).all()
    assert (ratio[ratio.bytes == 16 << 10].ci_low > 1.7).all()
    assert (ratio[ratio.bytes == 128 << 10].ci_low > 2.2).all()


def test_our_kernels_on_two_linked_h200_are_as_much_faster_than_vllms_way_as_the_readme_says():
    ratio = against(read_results([PROJECT / "reports" / "published" / "2026-11-24-h200-x2-nvlink"]).timed)
    assert (ratio.launches == 5).all() and (ratio.ci_low > 1.15).all()
    assert (ratio[ratio.bytes <= 1 << 20].ci_low > 1.6).all()
