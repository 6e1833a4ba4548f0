"""Tables from measurements: who serves what, where one gives way to the next, and what makes a table in use change."""

import numpy as np
import pandas as pd
import pytest

from symmlib.errors import SymmlibError, UsageError
from symmlib.routing import Route, RoutingTable, Table, compare, show
from symmlib.routing.derive import derive, unresolved

KIB = 1 << 10
SIZES = (KIB, 4 * KIB, 16 * KIB, 64 * KIB)
SETTING = {"device": "cpu", "world_size": 2, "dtype": "bfloat16", "mode": "eager", "multicast": False}


def timed(
    times: dict[str, list[float]], sizes=SIZES, launches: int = 5, noise: float = 0.005, seed: int = 0, **changes
):
    """Samples of backends with the median `times` in µs, log-normal `noise` from launch to launch."""
    chance = np.random.default_rng(seed)
    rows = [
        {"launch": launch, "backend": backend, "bytes": size, "time_us": time * np.exp(chance.normal(0, noise))}
        for launch in range(1, launches + 1)
        for backend, medians_us in times.items()
        for size, time in zip(sizes, medians_us, strict=True)
    ]
    return pd.DataFrame(rows).assign(**SETTING | changes)


def routes_of(samples, **options) -> tuple[Route, ...]:
    return derive(samples, source="run x", **options).tables[0].routes


def test_the_bound_is_where_both_take_the_same_time_with_an_interval_around_it():
    first, last = routes_of(timed({"host/one_shot": [1, 2, 9, 30], "host/two_shot": [2, 3, 7, 20]}))
    assert (first.backend, last.backend, last.max_bytes) == ("host/one_shot", "host/two_shot", None)
    low, high = first.crossover_bytes
    assert 4 * KIB < low < first.max_bytes < high < 16 * KIB


def test_backends_within_three_percent_are_as_good_and_the_simplest_is_kept():
    table = derive(timed({"host/two_shot": [1, 1, 1, 1], "host/one_shot": [1.02, 1.02, 1.02, 1.02]}), source="run x")
    assert table.tables[0].routes == (Route(None, "host/one_shot"),)
    assert table.tables[0].incumbent == "host/one_shot"
    other = {"host/two_shot": [1, 1, 1, 1], "host/one_shot": [1.08, 1.08, 1.08, 1.08]}
    assert routes_of(timed(other)) == (Route(None, "host/two_shot"),)


def test_a_tie_in_noise_makes_one_route():
    for seed in range(20):
        chance = np.random.default_rng(seed)
        times = {name: chance.normal(10, 0.05, 4).tolist() for name in ("host/one_shot", "host/two_shot")}
        assert len(routes_of(timed(times, noise=0.1))) == 1


def test_a_backend_may_own_two_ranges():
    names = [route.backend for route in routes_of(timed({"gloo": [1, 5, 5, 1], "host/one_shot": [2, 2, 2, 2]}))]
    assert names == ["gloo", "host/one_shot", "gloo"]


def test_two_ranges_are_shown_by_all_sizes_between_them_where_none_of_them_shows_it_alone():
    sizes = [KIB << step for step in range(9)]
    times = {
        "host/one_shot": [1, 2, 4.6, 9.2, 18.4, 36.8, 64, 128, 256],
        "host/two_shot": [1.2, 2.3, 4, 8, 16, 32, 75, 150, 300],
    }
    found = [
        [route.backend for route in routes_of(timed(times, sizes=sizes, noise=0.05, seed=seed))] for seed in range(10)
    ]
    assert found.count(["host/one_shot", "host/two_shot", "host/one_shot"]) >= 8


def test_a_backend_that_takes_no_more_serves_up_to_the_last_size_that_it_took():
    samples = timed({"gloo": [9, 9, 9, 9], "host/one_shot": [1, 1, 1, 1]})
    samples = samples[(samples["backend"] == "gloo") | (samples["bytes"] <= 4 * KIB)]
    assert routes_of(samples) == (Route(4 * KIB, "host/one_shot"), Route(None, "gloo"))


def test_one_launch_gives_routes_without_intervals():
    first, _ = routes_of(timed({"host/one_shot": [1, 2, 9, 30], "host/two_shot": [2, 3, 7, 20]}, launches=1))
    assert 4 * KIB < first.max_bytes < 16 * KIB
    assert first.crossover_bytes is None


def test_vllm_kernels_are_left_out_unless_asked_for():
    samples = timed({"gloo": [9, 9, 9, 9], "vllm/shm": [1, 1, 1, 1]})
    assert routes_of(samples) == (Route(None, "gloo"),)
    assert routes_of(samples, candidates=["vllm/shm"]) == (Route(None, "vllm/shm"),)


def test_each_world_size_and_dtype_gets_its_own_table():
    four_ranks = timed({"host/one_shot": [1, 1, 1, 1]}, world_size=4, dtype="float32")
    table = derive(pd.concat([timed({"gloo": [1, 1, 1, 1]}), four_ranks]), source="run x")
    assert table.find(device="cpu", world_size=4, dtype="float32", mode="eager", multicast=False).routes == (
        Route(None, "host/one_shot"),
    )
    assert len(table.tables) == 2


def test_ranks_that_shared_a_gpu_get_tables_that_say_so_for_each_world_size_and_keep_them_from_a_node():
    shared = {"device": "sm_90/one-gpu", "mode": "graph"}
    samples = pd.concat(
        timed({"symm_mem/two_shot": [4, 4, 4, 4], "triton/one_shot": [1, 2, 8, 16]}, world_size=world_size, **shared)
        for world_size in (2, 4, 8)
    )
    node = timed({"symm_mem/two_shot": [1, 1, 1, 1]}, world_size=4, device="sm_90", mode="graph")
    table = RoutingTable.loads(derive(pd.concat([samples, node]), source="run x").dumps())
    assert [(one.device, one.world_size) for one in sorted(table.tables, key=lambda one: one.key)] == [
        ("sm_90", 4),
        ("sm_90/one-gpu", 2),
        ("sm_90/one-gpu", 4),
        ("sm_90/one-gpu", 8),
    ]
    key = {"world_size": 4, "dtype": "bfloat16", "mode": "graph", "multicast": False}
    assert [route.backend for route in table.find(device="sm_90/one-gpu", **key).routes] == [
        "triton/one_shot",
        "symm_mem/two_shot",
    ]
    assert table.find(device="sm_90", **key).routes == (Route(None, "symm_mem/two_shot"),)
    assert len(show(table, device="sm_90/one-gpu")) == 6


def test_without_a_measured_candidate_there_is_no_table():
    with pytest.raises(SymmlibError, match="Measured: vllm/shm"):
        derive(timed({"vllm/shm": [1, 1, 1, 1]}), source="run x")
    with pytest.raises(UsageError, match="Did you mean 'gloo'"):
        derive(timed({"gloo": [1, 1, 1, 1]}), source="run x", candidates=["glo"])


def in_use(*routes: Route) -> RoutingTable:
    return RoutingTable((Table(**SETTING, source="before", routes=routes),))


def test_a_bound_in_use_stays_where_its_new_interval_includes_it_and_moves_where_not():
    samples = timed({"host/one_shot": [1, 2, 9, 30], "host/two_shot": [2, 3, 7, 20]}, noise=0.02)
    found = routes_of(samples)[0]
    near = found.crossover_bytes[0] + 1
    kept = routes_of(samples, previous=in_use(Route(near, "host/one_shot"), Route(None, "host/two_shot")))
    assert kept[0].max_bytes == near
    far = found.crossover_bytes[1] + 4096
    moved = routes_of(samples, previous=in_use(Route(far, "host/one_shot"), Route(None, "host/two_shot")))
    assert moved[0].max_bytes == found.max_bytes


def test_a_choice_in_use_stays_unless_it_is_shown_to_be_slower():
    level = {"host/one_shot": [1, 1, 1, 1], "host/two_shot": [1.02, 1.02, 1.02, 1.02]}
    assert routes_of(timed(level), previous=in_use(Route(None, "host/two_shot"))) == (Route(None, "host/two_shot"),)
    worse = {"host/one_shot": [1, 1, 1, 1], "host/two_shot": [1.2, 1.2, 1.2, 1.2]}
    assert routes_of(timed(worse), previous=in_use(Route(None, "host/two_shot"))) == (Route(None, "host/one_shot"),)


def test_what_deserves_more_sizes_is_a_bound_known_less_well_than_half_an_octave():
    routes = (Route(1000, "gloo", (900, 1100)), Route(2000, "host/one_shot", (1000, 3000)), Route(None, "gloo"))
    assert unresolved(in_use(*routes).tables[0]) == [(2000, 1000, 3000)]


def summary(times: dict[str, list[float]]) -> pd.DataFrame:
    rows = [
        {"backend": backend, "bytes": size, "median_us": median_us}
        for backend, medians_us in times.items()
        for size, median_us in zip(SIZES, medians_us, strict=True)
    ]
    return pd.DataFrame(rows).assign(**SETTING, status="ok")


def test_comparing_tables_shows_both_choices_and_what_the_new_one_gains():
    times = {"gloo": [4, 4, 4, 4], "host/one_shot": [1, 2, 8, 8]}
    changes = compare(in_use(Route(None, "host/one_shot")), derive(timed(times), source="run x"), summary(times))
    assert list(changes["before"]) == ["host/one_shot"] * 4
    assert list(changes["after"]) == ["host/one_shot", "host/one_shot", "gloo", "gloo"]
    assert list(changes["speedup"]) == [1, 1, 2, 2]


def test_comparing_with_no_table_or_an_unmeasured_backend_leaves_gaps():
    times = {"gloo": [4, 4, 4, 4]}
    changes = compare(RoutingTable(()), derive(timed(times), source="run x"), summary(times))
    assert changes["before"].isna().all()
    assert changes[["before_us", "speedup"]].isna().all(axis=None)
    assert list(changes["after_us"]) == [4, 4, 4, 4]
