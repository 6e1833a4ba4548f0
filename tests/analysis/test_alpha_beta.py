"""Bounds of measured times: which bytes, through what, and what has none."""

import pandas as pd
import pytest

from symmlib.analysis import alpha_beta
from symmlib.analysis.alpha_beta import MEMORIES, algorithm_of, bounds, bytes_moved, bytes_through_memory, link

MiB = 1 << 20


def measured(backend: str, nbytes: int, median_us: float, **changes) -> dict:
    row = {
        "backend": backend, "world_size": 4, "dtype": "bfloat16", "mode": "graph", "bytes": nbytes, "launches": 5,
        "median_us": median_us, "wrong": 0, "status": "ok", "reason": "", "device": "sm_90", "multicast": False,
    }  # fmt: skip
    return row | changes


def touched(algorithm: str, ranks: int, parts: int) -> int:
    """Loads and stores of all ranks, counted part by part of messages of `parts`, for an algorithm played through."""
    count = 0
    for rank in range(ranks):
        count += 2 * parts  # read the input, write it where peers can read it
        if algorithm == "one_shot":
            count += sum(parts for other in range(ranks) if other != rank)
        else:
            share = parts // ranks
            count += sum(share for other in range(ranks) if other != rank)  # their parts of my share
            count += share  # my share's sum, for them to read
            count += sum(share for other in range(ranks) if other != rank)  # the sums of their shares
        count += parts  # write the result
    return count


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("algorithm", ["one_shot", "two_shot"])
def test_bytes_through_one_gpus_memory_are_those_of_the_algorithm_played_through(algorithm, ranks):
    assert bytes_through_memory(algorithm, 64, ranks) == touched(algorithm, ranks, 64)


def test_the_link_follows_from_the_device():
    assert (link("sm_90").gbps, link("sm_100").gbps, link("sm_103").gbps) == (450, 900, 900)
    assert link("sm_90").l2_bytes == 0 and "NVLink 4" in link("sm_90").name and "NVLink 5" in link("sm_103").name
    assert link("cpu") is None and link("sm_80") is None and link("sm_80/one-gpu") is None


@pytest.mark.parametrize(
    ("gpus", "gbps"),
    [(["NVIDIA H200"], 4800), (["NVIDIA H100 80GB HBM3"] * 8, 3350), ([], 3350), (["NVIDIA GH200 480GB"], 3350)],
)
def test_the_memory_is_that_of_the_named_gpu_or_the_slowest_of_its_generation(gpus, gbps):
    assert link("sm_90/one-gpu", gpus).gbps == gbps
    assert link("sm_100/one-gpu", gpus).gbps == 8000


def test_backends_have_the_algorithm_that_they_run():
    assert algorithm_of("triton/one_shot", 1, 8) == ("one_shot", "")
    assert algorithm_of("vllm/symm_mem", 1, 8) == ("two_shot", "")
    assert algorithm_of("vllm/custom", 64 * MiB, 2)[0] == "one_shot"
    assert [algorithm_of("vllm/custom", nbytes, 4)[0] for nbytes in (MiB // 2 - 16, MiB // 2)] == [
        "one_shot",
        "two_shot",
    ]
    assert [algorithm_of("vllm/custom", nbytes, 8)[0] for nbytes in (MiB // 4 - 16, MiB // 4)] == [
        "one_shot",
        "two_shot",
    ]
    assert [algorithm_of("nccl", MiB, 8, multicast)[0] for multicast in (False, True)] == ["ring", "multimem"]
    for name in ("vllm/flashinfer", "router", "somebody/else"):
        algorithm, why_not = algorithm_of(name, MiB, 8)
        assert not algorithm and why_not


def test_a_backend_as_fast_as_its_link_and_the_shortest_start_is_at_its_bound():
    exact = [measured("symm_mem/two_shot", size, 5 + bytes_moved("two_shot", size, 4) / 450e3) for size in (1024, MiB)]
    slow = [measured("nccl", size, 10 + 2 * bytes_moved("ring", size, 4) / 450e3) for size in (1024, MiB)]
    found = bounds(pd.DataFrame(exact + slow)).set_index(["backend", "bytes"])
    assert list(found.share["symm_mem/two_shot"]) == pytest.approx([1, 1])
    assert found.alpha_us.to_list() == pytest.approx([5] * 4)
    assert found.share["nccl", 1024] == pytest.approx(0.5, rel=1e-3)
    assert found.bound_us["nccl", MiB] == pytest.approx(5 + 1.5 * MiB / 450e3)


def test_each_setting_has_a_start_of_its_own_that_no_wrong_sum_and_no_unknown_algorithm_sets():
    rows = [measured("symm_mem/one_shot", 1024, 4.0 * ranks, world_size=ranks) for ranks in (2, 8)]
    rows += [measured("triton/one_shot", 1024, 0.1, wrong=3), measured("vllm/flashinfer", 1024, 0.5, world_size=8)]
    found = bounds(pd.DataFrame(rows)).set_index(["backend", "world_size"])
    assert ("triton/one_shot", 4) not in found.index
    assert found.share["symm_mem/one_shot", 2] == found.share["symm_mem/one_shot", 8] == pytest.approx(1)
    assert pd.isna(found.share["vllm/flashinfer", 8]) and "FlashInfer" in found.why_not["vllm/flashinfer", 8]


def test_on_one_gpu_only_messages_beyond_the_cache_have_a_bound():
    device = {"device": "sm_90/one-gpu", "world_size": 2}
    sizes = [1024, 8 * MiB, 16 * MiB]
    found = bounds(pd.DataFrame([measured("triton/two_shot", size, 100, **device) for size in sizes]), ["NVIDIA H200"])
    assert list(found.share.isna()) == [True, True, False]
    assert found.why_not.to_list() == ["all ranks' buffers fit the L2 cache (60 MiB)"] * 2 + [""]
    moved_us = 2 * 4.5 * 16 * MiB / 4800e3
    assert found.bound_us.iloc[2] == pytest.approx(found.alpha_us.iloc[2] + moved_us)
    assert 6 * 8 * MiB <= MEMORIES["sm_90"]["H200"][1] < 6 * 16 * MiB


def test_what_has_no_bound_says_why():
    no_link = {"cpu": "on the CPU", "sm_75": "sm_75 is not known", "": "this machine is not known", None: "not known"}
    for device, why in no_link.items():
        (row,) = bounds(pd.DataFrame([measured("gloo", 1024, 5, device=device)])).itertuples()
        assert pd.isna(row.share) and why in row.why_not
    old = pd.DataFrame([measured("gloo", 1024, 5)]).drop(columns=["device", "multicast"])
    assert bounds(old).why_not.to_list() == ["the link of this machine is not known"]
    assert bounds(old[:0]).empty
    (row,) = bounds(pd.DataFrame([measured("nccl", 1024, 5, device="sm_90/one-gpu")])).itertuples()
    assert row.why_not == "ring does not run where ranks share a GPU"


def test_the_study_s_models_are_what_they_were():
    assert alpha_beta.time_us("two_shot", MiB, 8) == pytest.approx(9 + 1.75 * MiB / (450e3 * 0.8))
    assert alpha_beta.time_us("ring", MiB, 4) == pytest.approx(6 * 4.5 + 1.5 * MiB / (450e3 * 0.95))
