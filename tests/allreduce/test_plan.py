"""A plan refuses what it cannot mean, before anything starts."""

import pytest

from symmlib.allreduce import AllReducePlan
from symmlib.errors import UsageError

GOOD = {"world_size": 2, "backends": ["gloo"], "sizes": "1KiB"}


def test_a_plan_reads_what_people_type():
    plan = AllReducePlan(2, "gloo, host/one_shot", "1KiB:16KiB:x4,6000")
    assert plan.backends == ("gloo", "host/one_shot")
    assert plan.sizes == (1024, 4096, 6000, 16384)


def test_a_plan_survives_the_way_to_the_ranks():
    plan = AllReducePlan(4, ["gloo"], [2, 1024], dtype="float16", launches=1, budget_s=1)
    assert AllReducePlan.loads(plan.dumps()) == plan


def test_messages_live_where_the_backends_run():
    assert AllReducePlan(2, "gloo,nccl", "1KiB").device == "cpu"
    assert AllReducePlan(2, "nccl,symm_mem/one_shot", "1KiB", mode="graph").device == "cuda"


def test_several_world_sizes_are_one_plan_each():
    plan = AllReducePlan([4, 2], "symm_mem/one_shot", "1KiB", one_gpu=True)
    assert plan.world_size == (4, 2) and plan.device == "cuda"
    assert [one.world_size for one in plan.each()] == [4, 2]
    assert {one.one_gpu for one in plan.each()} == {True}
    assert AllReducePlan.loads(plan.dumps()) == plan
    alone = AllReducePlan(**GOOD)
    assert list(alone.each()) == [alone]


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"world_size": 1}, "world_size 1 is not a whole number of at least 2"),
        ({"world_size": 9}, "world_size 9 is more than 8"),
        ({"world_size": "2"}, "world_size '2' is not a whole number"),
        ({"world_size": []}, "no world_size to measure. Name one, such as 2"),
        ({"world_size": [2, 1]}, "world_size 1 is not a whole number of at least 2"),
        ({"world_size": [2, [4]]}, r"world_size \[4\] is not a whole number"),
        ({"world_size": [2, True]}, "world_size True is not a whole number"),
        ({"world_size": [4, 16]}, "world_size 16 is more than 8"),
        ({"world_size": [2, 4, 2]}, "world_size 2 is named twice"),
        ({"one_gpu": True}, "but the host's memory is where gloo works. Leave one_gpu out, or name GPU backends"),
        ({"backends": "nccl", "device": "cpu", "one_gpu": True}, "but the host's memory is where device 'cpu' works"),
        ({"one_gpu": 1}, "one_gpu 1 is neither true nor false"),
        ({"beside_a_model": "no"}, "beside_a_model 'no' is neither true nor false"),
        ({"backends": "triton/one_shot", "beside_a_model": True}, "where each rank has its own GPU. Give one_gpu"),
        ({"backends": ["glo"]}, "unknown backend 'glo'. Did you mean 'gloo'"),
        ({"backends": "gloo,gloo"}, "named twice"),
        ({"backends": []}, "no backends"),
        ({"sizes": "1KB"}, "'1KB' is not a message size"),
        ({"sizes": [3]}, "3 bytes are no whole number of bfloat16 elements"),
        ({"sizes": "2GiB"}, "2 GiB is more than 1 GiB"),
        ({"dtype": "bf16"}, "unknown dtype 'bf16'. Did you mean 'bfloat16'"),
        ({"mode": "graph"}, "need a GPU"),
        ({"mode": "graphs"}, "Did you mean 'graph'"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"launches": 0}, "launches 0"),
        ({"rounds": True}, "rounds True"),
        ({"iterations": 2.5}, "iterations 2.5"),
        ({"budget_s": 0}, "budget_s 0"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_a_plan_refuses(wrong, expected):
    with pytest.raises(UsageError, match=expected):
        AllReducePlan(**GOOD | wrong)
