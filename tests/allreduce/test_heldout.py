"""A table is checked at every world size that it was derived for, by ranks like those that were measured."""

import dataclasses

import pandas as pd
import pytest

from symmlib.allreduce import heldout
from symmlib.allreduce.heldout import COST_BYTES, check
from symmlib.allreduce.measure import measure
from symmlib.allreduce.results import Results
from symmlib.errors import UsageError
from symmlib.routing import Route, RoutingTable, Table
from symmlib.routing.derive import derive

KIB = 1 << 10


GPU_COSTS = {"triton/one_shot": 1, "symm_mem/one_shot": 2}


def timed(device="sm_90/one-gpu", world_sizes=(2, 4), costs=GPU_COSTS, mode="graph") -> pd.DataFrame:
    rows = [
        (ranks, name, size, launch, cost * size)
        for ranks in world_sizes for name, cost in costs.items()
        for size in (KIB, 64 * KIB) for launch in (1, 2)
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["world_size", "backend", "bytes", "launch", "time_us"])
    return frame.assign(device=device, dtype="bfloat16", mode=mode, multicast=False)


def test_every_world_size_of_a_table_is_checked_for_real(tmp_path, monkeypatch):
    shorter = {"rounds": 5, "iterations": 5}  # three ranks take turns on two cores, for milliseconds each
    monkeypatch.setattr(heldout, "measure", lambda plan, out: measure(dataclasses.replace(plan, **shorter), out))
    level = timed("cpu", (2, 3), {"host/one_shot": 1, "host/two_shot": 1}, "eager")  # so that both are measured again
    results = Results(None, level, "a test")
    derive(level, source="a test").save(tmp_path / "routing.toml")
    checked = check(tmp_path / "routing.toml", results, tmp_path, launches=1)
    assert checked.regret.groupby("world_size")["bytes"].nunique().ge(3).to_dict() == {2: True, 3: True}
    assert (checked.regret["regret"] > -0.5).all()
    assert {*checked.summary["backend"]} == {"host/one_shot", "host/two_shot", "router"}
    assert set(checked.cost["world_size"]) == {2, 3} and set(checked.cost["bytes"]) == {*COST_BYTES}
    assert pd.read_csv(tmp_path / "results" / "regret.csv").shape == checked.regret.shape


@pytest.mark.parametrize(
    ("device", "one_gpu", "beside_a_model"),
    [("sm_90/one-gpu", True, True), ("sm_90/one-gpu", True, False), ("sm_90", False, False)],
)
def test_ranks_share_a_gpu_in_the_check_as_they_did_in_the_measurement(
    tmp_path, monkeypatch, device, one_gpu, beside_a_model
):
    plans = []

    def measure(plan, out):
        plans.append(plan)
        raise UsageError("no GPU here")

    monkeypatch.setattr(heldout, "measure", measure)
    routes = (Route(None, "triton/one_shot"),)
    tables = [Table(device, ranks, "bfloat16", "graph", False, "a test", routes) for ranks in (2, 4, 8)]
    RoutingTable(tuple(tables)).save(tmp_path / "routing.toml")
    results = Results(None, timed(device), "a test", beside_a_model)
    with pytest.raises(UsageError, match="no GPU here"):
        check(tmp_path / "routing.toml", results, tmp_path)
    (plan,) = plans
    assert (plan.world_size, plan.device, plan.mode) == ((2, 4), "cuda", "graph")
    assert (plan.one_gpu, plan.beside_a_model) == (one_gpu, beside_a_model)
    assert plan.backends == ("triton/one_shot", "router")


def test_a_choice_that_could_not_be_timed_somewhere_is_judged_elsewhere(capsys):
    table = Table("sm_90", 2, "bfloat16", "graph", False, "a test", (Route(None, "triton/one_shot"),))
    samples = timed(world_sizes=(2,))
    samples = samples[(samples["bytes"] == KIB) | (samples["backend"] != "triton/one_shot")]
    found = heldout._regret(table, samples, [KIB, 64 * KIB])
    assert list(found["bytes"]) == [KIB]
    assert "on 2 ranks the table's choice was not timed at 64 KiB" in capsys.readouterr().out


def test_a_table_for_another_device_is_none_for_what_was_measured(tmp_path):
    table = Table("cpu", 2, "bfloat16", "graph", False, "a test", (Route(None, "gloo"),))
    RoutingTable((table,)).save(tmp_path / "routing.toml")
    with pytest.raises(UsageError, match="has no table for what was measured: .*sm_90/one-gpu"):
        check(tmp_path / "routing.toml", Results(None, timed(), "a test"), tmp_path)
