"""Which table a notebook's servers obey."""

import pytest

from symmlib.profiles import Profile
from symmlib.routing import Route, RoutingTable, Table
from symmlib.runs import Run, write_text
from symmlib.serving import ServingExperiment, routing_table, table_for


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch):
    monkeypatch.setattr(routing_table.server, "platform", lambda: "cpu")


def run_of(reports, *steps: str, **tables) -> Run:
    """A run whose profile had `steps`, with a table of one route for `tables`' device, mode and world_size, if any."""
    run = Run.create(Profile("mine", "a test's", dict.fromkeys(steps or ("04_serving",), {})), reports)
    run.update(steps={name: {"status": "failed"} for name in steps})
    if tables:
        save(run.path / "routing.toml", **tables)
    return run


def save(path, device="cpu", mode="eager", world_size=2):
    backend = "host/one_shot" if device == "cpu" else "triton/one_shot"
    table = Table(device, world_size, "bfloat16", mode, False, "a test", (Route(None, backend),))
    path.parent.mkdir(parents=True, exist_ok=True)
    RoutingTable((table,)).save(path)


def test_a_run_s_own_table_comes_first_and_then_the_one_that_its_servers_obeyed(tmp_path):
    mine = run_of(tmp_path, world_size=4)
    run_of(tmp_path, world_size=2)
    assert table_for(mine, ServingExperiment()) == mine.path / "routing.toml"
    (mine.path / "routing.toml").unlink()
    save(mine.path / "raw" / "serving" / "routing.toml", world_size=4)
    assert table_for(mine, ServingExperiment()) == mine.path / "raw" / "serving" / "routing.toml"


def test_alone_a_notebook_obeys_the_newest_table_with_routes_for_what_it_serves_and_says_whose(tmp_path, capsys):
    older = run_of(tmp_path, world_size=2)
    run_of(tmp_path, world_size=4)
    write_text(run_of(tmp_path).path / "routing.toml", "damaged = ")
    found = table_for(run_of(tmp_path), ServingExperiment())
    assert found == older.path / "routing.toml"
    assert f"the router obeys the table of run {older.id}" in capsys.readouterr().out
    assert table_for(run_of(tmp_path), ServingExperiment(tp=(2, 4))) is None


def test_no_other_s_table_replaces_one_that_a_run_failed_to_derive_or_serves_where_nothing_is_routed(tmp_path):
    run_of(tmp_path, world_size=2)
    assert table_for(run_of(tmp_path, "03_routing", "04_serving"), ServingExperiment()) is None
    unrouted = ServingExperiment(arms=("gloo", "vllm/shm"), treatment="vllm/shm")
    assert table_for(run_of(tmp_path), unrouted) is None


@pytest.mark.parametrize(
    ("table", "given", "fits"),
    [
        ({"device": "sm_100", "mode": "graph"}, {}, True),
        ({"device": "sm_90", "mode": "graph"}, {}, False),
        ({"device": "sm_100", "mode": "eager"}, {}, False),
        ({"device": "sm_100", "mode": "eager"}, {"server_args": ["--enforce-eager"]}, True),
        ({"device": "sm_100/one-gpu", "mode": "graph"}, {}, False),
        ({"device": "sm_100/one-gpu", "mode": "graph"}, {"one_gpu": True}, True),
        ({"device": "cpu", "mode": "eager"}, {}, False),
    ],
)
def test_on_gpus_a_table_fits_by_architecture_by_graphs_and_by_whether_ranks_share_one(
    tmp_path, monkeypatch, table, given, fits
):
    monkeypatch.setattr(routing_table.server, "platform", lambda: "cuda")
    monkeypatch.setattr(routing_table, "routed_device", lambda: "sm_100")
    theirs = run_of(tmp_path, **table)
    experiment = ServingExperiment(arms=("nccl", "router"), baseline="nccl", **given)
    assert table_for(run_of(tmp_path), experiment) == (theirs.path / "routing.toml" if fits else None)
