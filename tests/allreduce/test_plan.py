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


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"world_size": 1}, "world_size 1 is not a whole number of at least 2"),
        ({"world_size": 9}, "world_size 9 is more than 8"),
        ({"world_size": "2"}, "world_size '2' is not a whole number"),
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
