"""Tables from summaries: who wins where, and where one winner gives way to the next."""

import pandas as pd
import pytest

from symmlib.errors import SymmlibError, UsageError
from symmlib.routing import Route, RoutingTable, Table, compare
from symmlib.routing.derive import derive

KIB = 1 << 10


def summary(times: dict[str, list[float]], sizes=(KIB, 4 * KIB, 16 * KIB), **columns) -> pd.DataFrame:
    rows = [
        {"backend": backend, "bytes": size, "median_us": median_us}
        for backend, medians_us in times.items()
        for size, median_us in zip(sizes, medians_us, strict=True)
    ]
    point = {"device": "cpu", "world_size": 2, "dtype": "bfloat16", "mode": "eager", "multicast": False, "status": "ok"}
    return pd.DataFrame(rows).assign(**point | columns)


def test_the_fastest_backend_serves_each_size_and_the_bound_is_the_geometric_mean():
    table = derive(summary({"host/one_shot": [1, 2, 9], "host/two_shot": [2, 3, 8]}), source="run x")
    assert table.tables[0].routes == (Route(8 * KIB, "host/one_shot"), Route(None, "host/two_shot"))
    assert table.tables[0].source == "run x"


def test_neighbouring_sizes_with_one_winner_make_one_route():
    table = derive(summary({"gloo": [1, 1, 1], "host/one_shot": [2, 2, 2]}), source="run x")
    assert table.tables[0].routes == (Route(None, "gloo"),)


def test_a_backend_may_win_twice():
    table = derive(summary({"gloo": [1, 5, 1], "host/one_shot": [2, 2, 2]}), source="run x")
    assert [route.backend for route in table.tables[0].routes] == ["gloo", "host/one_shot", "gloo"]


def test_rows_that_failed_never_win():
    rows = summary({"gloo": [9, 9, 9], "host/one_shot": [1, 1, 1]})
    rows.loc[rows["backend"] == "host/one_shot", "status"] = "failed"
    assert derive(rows, source="run x").tables[0].routes == (Route(None, "gloo"),)


def test_vllm_kernels_are_left_out_unless_asked_for():
    rows = summary({"gloo": [9, 9, 9], "vllm/shm": [1, 1, 1]})
    assert derive(rows, source="run x").tables[0].routes == (Route(None, "gloo"),)
    assert derive(rows, source="run x", candidates=["vllm/shm"]).tables[0].routes == (Route(None, "vllm/shm"),)


def test_each_world_size_and_dtype_gets_its_own_table():
    four_ranks = summary({"host/one_shot": [1, 1, 1]}, world_size=4, dtype="float32")
    table = derive(pd.concat([summary({"gloo": [1, 1, 1]}), four_ranks]), source="run x")
    assert table.find(device="cpu", world_size=4, dtype="float32", mode="eager", multicast=False).routes == (
        Route(None, "host/one_shot"),
    )
    assert len(table.tables) == 2


def test_without_a_measured_candidate_there_is_no_table():
    with pytest.raises(SymmlibError, match="Measured: vllm/shm"):
        derive(summary({"vllm/shm": [1, 1, 1]}), source="run x")
    with pytest.raises(UsageError, match="Did you mean 'gloo'"):
        derive(summary({"gloo": [1, 1, 1]}), source="run x", candidates=["glo"])


def test_comparing_tables_shows_both_choices_and_what_the_new_one_gains():
    rows = summary({"gloo": [4, 4, 4], "host/one_shot": [1, 2, 8]})
    before = RoutingTable((Table("cpu", 2, "bfloat16", "eager", False, "before", (Route(None, "host/one_shot"),)),))
    changes = compare(before, derive(rows, source="run x"), rows)
    assert list(changes["before"]) == ["host/one_shot"] * 3
    assert list(changes["after"]) == ["host/one_shot", "host/one_shot", "gloo"]
    assert list(changes["speedup"]) == [1, 1, 2]


def test_comparing_with_no_table_or_an_unmeasured_backend_leaves_gaps():
    rows = summary({"gloo": [4, 4, 4]})
    changes = compare(RoutingTable(()), derive(rows, source="run x"), rows)
    assert changes["before"].isna().all()
    assert changes[["before_us", "speedup"]].isna().all(axis=None)
    assert list(changes["after_us"]) == [4, 4, 4]
