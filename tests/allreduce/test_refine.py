"""Where to measure next, and at which sizes a table is checked."""

import numpy as np
import pandas as pd

from symmlib.allreduce.heldout import held_out_sizes
from symmlib.allreduce.refine import further_sizes, in_words, rivals, unresolved_bounds
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
