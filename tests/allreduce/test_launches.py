"""What a launch gives its ranks. No GPU is touched: MPS is a stand-in (see test_mps), and the worker sums nothing."""

import json
from pathlib import Path

import pytest

from symmlib.allreduce import AllReducePlan
from symmlib.allreduce.launches import SHARED_GPU, Launches, device_key

STAND_INS = Path(__file__).parent.parent / "stand_ins"
H200 = {"name": "NVIDIA H200", "compute_capability": "9.0", "memory_mib": "143771"}


@pytest.fixture
def launches(tmp_path, monkeypatch) -> Launches:
    monkeypatch.setenv("PATH", str(STAND_INS), prepend=":")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
    for name in SHARED_GPU:
        monkeypatch.delenv(name, raising=False)
    return Launches(tmp_path, "environment_worker", stall_s=60)


def environments(launches: Launches, number: int) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(launches.raw.glob(f"launch-{number}-rank-*.json"))]


def test_ranks_that_share_a_gpu_get_an_mps_of_their_own_for_each_launch(launches):
    plan = AllReducePlan([2, 3], "symm_mem/one_shot", "1KiB", launches=1, one_gpu=True)
    for one in plan.each():
        launches.run(one, [])
    two, three = environments(launches, 1), environments(launches, 2)
    assert (len(two), len(three)) == (2, 3)
    for ranks in (two, three):
        assert all(rank.items() >= SHARED_GPU.items() for rank in ranks)
        assert len({rank["CUDA_MPS_PIPE_DIRECTORY"] for rank in ranks}) == 1
    assert two[0]["CUDA_MPS_PIPE_DIRECTORY"] != three[0]["CUDA_MPS_PIPE_DIRECTORY"]
    assert not Path(three[0]["CUDA_MPS_PIPE_DIRECTORY"]).exists()
    assert (launches.raw / "launch-2.mps" / "mps.log").is_file()


def test_ranks_with_a_gpu_each_get_none_of_that(launches):
    launches.run(AllReducePlan(2, "symm_mem/one_shot", "1KiB", launches=1), [])
    assert not {*SHARED_GPU, "CUDA_MPS_PIPE_DIRECTORY"} & set(environments(launches, 1)[0])


def test_torchrun_and_its_ranks_listen_on_the_loopback_interface_only(launches):
    launches.worker = "listening_worker"
    launches.run(AllReducePlan(2, "gloo", "1KiB", launches=1), [])
    seen = json.loads((launches.raw / "launch-1-listening.json").read_text())
    assert "torch.distributed.run" in seen["torchrun"] and len(seen["found"]) == 3  # torchrun and two ranks
    addresses = [address for found in seen["found"].values() for address in found]
    assert len(addresses) >= 3  # the ranks' store, and gloo of each rank
    assert {address.removeprefix("::ffff:") for address in addresses} <= {"127.0.0.1", "::1"}, seen["found"]


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ({"backends": "gloo"}, "cpu"),
        ({"backends": "nccl"}, "sm_90"),
        ({"backends": "symm_mem/one_shot", "one_gpu": True}, "sm_90/one-gpu"),
    ],
)
def test_results_are_of_the_device_that_the_ranks_had(monkeypatch, plan, expected):
    monkeypatch.setattr("symmlib.provenance.gpus", lambda: [H200])
    assert device_key(AllReducePlan(2, sizes="1KiB", **plan)) == expected
