"""Where to measure next, and at which sizes a table is checked."""

import sys

import numpy as np
import pandas as pd

from symmlib.allreduce import AllReducePlan, measure
from symmlib.allreduce.heldout import held_out_sizes
from symmlib.allreduce.launches import Launches
from symmlib.allreduce.refine import further_sizes, in_words, rivals, unresolved_bounds
from symmlib.allreduce.samples import LaunchFiles
from symmlib.routing import Route, Table

KIB = 1 << 10
GRID = [KIB * 4**step for step in range(6)]


def timed(backends: dict, sizes=GRID, noise=0.02) -> pd.DataFrame:
    chance = np.random.default_rng(0)
    rows = [
        (launch, name, size, time(size) * np.exp(chance.normal(0, noise)))
        for launch in (1, 2, 3) for name, time in backends.items() for size in sizes
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["launch", "backend", "bytes", "time_us"])
    return frame.assign(device="cpu", world_size=2, dtype="bfloat16", mode="eager", multicast=False)


CROSSING = {
    "host/one_shot": lambda size: size / 1000,
    "host/two_shot": lambda size: 5 + size / 2000,
    "gloo": lambda _: 900,
}


def test_the_next_sizes_are_the_middles_of_the_gaps_that_the_bound_may_lie_in():
    first = further_sizes(timed(CROSSING, noise=0.15), itemsize=2)
    assert 8 * KIB in first  # the curves cross at 10,000 bytes
    assert not set(first) & set(GRID)
    finer = sorted({*GRID, *first})
    for size in further_sizes(timed(CROSSING, sizes=finer, noise=0.15), itemsize=2):
        assert size % 2 == 0 and size not in finer


def test_nothing_more_is_measured_where_one_backend_wins_everywhere():
    assert further_sizes(timed({"host/one_shot": lambda size: size, "gloo": lambda size: 2 * size}), itemsize=2) == []


def test_only_backends_that_could_be_chosen_are_measured_again():
    peers = {**CROSSING, "vllm/shm": lambda size: size / 1000}
    assert rivals(timed(peers)) == {"host/one_shot", "host/two_shot"}


def test_what_is_left_is_said_in_sizes_that_people_use():
    bounds = unresolved_bounds(timed(CROSSING, noise=0.2))
    assert "near" in in_words(bounds) and "between" in in_words(bounds)


def test_held_out_sizes_are_odd_off_the_grid_and_on_both_sides_of_a_bound():
    routes = (Route(10_000, "host/one_shot"), Route(None, "host/two_shot"))
    table = Table("cpu", 2, "bfloat16", "eager", False, "a test", routes)
    sizes = held_out_sizes(table, GRID)
    assert not set(sizes) & set(GRID)
    assert all(size // 2 % 2 == 1 for size in sizes)
    assert min(sizes) > GRID[0] and max(sizes) < GRID[-1]
    assert len(sizes) == 12  # ten doublings, and two beside the bound
    assert any(8_000 < size < 9_000 for size in sizes) and any(11_000 < size < 12_500 for size in sizes)


class Lost(Launches):
    """Launches that are ended by every backend that they are given, and measure nothing."""

    def run(self, plan, left_out):
        self.begun = [*getattr(self, "begun", []), (plan.backends, [*left_out])]
        left_out += plan.backends


def test_backends_that_ended_launches_neither_stop_further_sizes_nor_are_tried_for_ever(tmp_path):
    timings = timed(CROSSING, noise=0.15)
    files = LaunchFiles(tmp_path, 1)
    files.append_samples(timings.assign(round=0, iteration=0).drop(columns=["device", "multicast"]).to_dict("records"))
    points = timings.drop(columns=["time_us"]).assign(status="ok", wrong=0, max_abs_error=0)
    files.append_checks(points.assign(bitwise_equal_across_ranks=True).to_dict("records"))
    plan = AllReducePlan(2, ["gloo", "vllm/shm", *list(CROSSING)[:2]], GRID, refine_s=600)
    launches, left_out = Lost(tmp_path, "no worker", 1), ["gloo", "vllm/shm"]
    sys.modules[measure.__module__]._refine(plan, launches, left_out)
    assert launches.begun == [(("host/one_shot", "host/two_shot"), [])]
    assert left_out == [*plan.backends]
