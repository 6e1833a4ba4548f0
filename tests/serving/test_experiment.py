"""An experiment refuses what it cannot mean, and plans blocks that favour no arm."""

from collections import Counter

import pytest

from symmlib import profiles
from symmlib.errors import UsageError
from symmlib.serving import ServingExperiment
from symmlib.serving.arms import Arm


def test_lists_from_a_profile_are_kept_as_tuples():
    experiment = ServingExperiment(tp=[2], qps=[4, 8.5], arms=["gloo", "router"])
    assert (experiment.tp, experiment.qps, experiment.arm_names) == ((2,), (4, 8.5), ("gloo", "router"))
    assert [experiment.requests(qps) for qps in experiment.qps] == [32, 68]


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"arms": ["gloo", "ruter"], "treatment": "ruter"}, "unknown arm 'ruter'. Did you mean 'router'?"),
        ({"arms": ["gloo", "gloo"]}, "arms names 'gloo' twice"),
        ({"arms": ["gloo", {"name": "x"}]}, "does not say its all_reduce"),
        ({"arms": ["gloo", {"all_reduce": "router", "enviroment": {}}]}, "Did you mean 'environment'?"),
        ({"arms": ["gloo", {"all_reduce": "router", "environment": {"A": 1}}]}, "it has 'A': 1. Quote it"),
        ({"arms": ["gloo", {"all_reduce": "router", "environment": {"HF_TOKEN": "x"}}]}, "must not hold a secret"),
        (
            {"arms": ["gloo", {"all_reduce": "router", "environment": {"SYMMLIB_TRACE": "x"}}]},
            "must not set SYMMLIB_TRACE",
        ),
        ({"arms": ["gloo", {"all_reduce": "router", "server_args": ["--port=1"]}]}, "must not set --port"),
        ({"arms": ["gloo", {"all_reduce": "router", "must_use": ["CUSTOM"]}]}, "whose trace proves what served"),
        ({"arms": ["gloo", {"all_reduce": "router", "name": "vllm shm"}, "vllm/shm"]}, "would share its directory"),
        ({"arms": ["gloo", "vllm/custom"]}, "unknown arm 'vllm/custom'"),
        ({"arms": ["gloo", {"all_reduce": "router", "environment": {"A;touch x": "1"}}]}, "maps names to texts"),
        ({"server_args": ["--tensor_parallel_size", "4"]}, "must not set --tensor_parallel_size"),
        ({"server_args": ["-tp4"]}, "must not set -tp4"),
        ({"qps": [4.0000001, 4.0000002]}, "too close to be told apart"),
        (
            {"arms": ["gloo", {"all_reduce": "router", "environment": {"SYMMLIB_ONE_GPU": "1"}}]},
            "must not set SYMMLIB_ONE_GPU",
        ),
        (
            {"arms": ["gloo", "router", {"all_reduce": "vllm/shm", "blocks": -1}]},
            "not a whole number: 1 or more, or 0 for all",
        ),
        ({"arms": ["gloo", {"all_reduce": "router", "blocks": 1}]}, "baseline and treatment are in all"),
        ({"one_gpu": "yes"}, "one_gpu 'yes' is neither true nor false"),
        ({"arms": []}, "arms is empty"),
        ({"arms": "gloo"}, "arms 'gloo' is not a list"),
        ({"baseline": "nccl"}, "baseline 'nccl' is not among the arms"),
        ({"treatment": "gloo"}, "baseline and treatment are both 'gloo'"),
        ({"tp": [1]}, "tp 1 is not a whole number of at least 2"),
        ({"tp": [9]}, "tp 9 is more than 8"),
        ({"qps": [0]}, "qps 0 is not a positive number"),
        ({"qps": [float("inf")]}, "qps inf is not a positive number"),
        ({"qps": [0.1]}, "fewer than 2"),
        ({"duration_s": -1}, "duration_s -1 is not a positive number"),
        ({"output_len": 1}, "output_len 1 is not a whole number of at least 2"),
        ({"input_len": 2000, "output_len": 100}, "max_model_len 2048 is too short"),
        ({"prefix_len": 128}, "prefix_len 128 must be less than input_len 128"),
        ({"blocks": 2}, "tier 'quick' needs at least 3 blocks, not 2"),
        ({"blocks": 21}, "blocks 21 is more than 20"),
        ({"tier": "quik"}, "unknown tier 'quik'. Did you mean 'quick'?"),
        ({"port": 70000}, "port 70000 is more than 65535"),
        ({"server_args": ["--port", "1"]}, "server_args must not set --port"),
        ({"server_args": ["--api-key", "sk-x"]}, "server_args must not set --api-key"),
        ({"server_args": ["--hf-token=hf_x"]}, "server_args must not set --hf-token"),
        ({"server_args": ["--hf_token", "x"]}, "server_args must not set --hf_token"),
        ({"server_args": ["--download-dir", "sk-abcdef"]}, "server_args must not set sk-a..."),
        ({"qps": [1e308]}, "qps of hundreds of digits is more than 100000"),
        ({"duration_s": 10**400}, "duration_s of hundreds of digits is more than 604800"),
        ({"blocks": 10**400}, "blocks of hundreds of digits is more than 20"),
        ({"server_args": ["--tensor-parallel-size=4"]}, "server_args must not set --tensor-parallel-size"),
    ],
)
def test_what_it_cannot_mean_is_refused_with_the_value(wrong, expected):
    with pytest.raises(UsageError) as error:
        ServingExperiment(**wrong)
    assert expected in str(error.value)


def test_the_treatment_is_compared_with_the_baseline_and_with_every_other_arm():
    pairs = ServingExperiment(arms=["gloo", "vllm/shm", "router"]).pairs()
    assert pairs == [("gloo", "vllm/shm"), ("gloo", "router"), ("vllm/shm", "router")]
    two = ServingExperiment(arms=["vllm/shm", "router"], baseline="vllm/shm")
    assert two.pairs() == [("vllm/shm", "router")]


def test_every_arm_takes_every_place_equally_often():
    experiment = ServingExperiment(blocks=6, tier="standard")
    orders = experiment.orders()
    assert len(orders) == 6
    assert set(Counter((arm, order.index(arm)) for order in orders for arm in order).values()) == {2}


def test_an_arm_with_fewer_blocks_is_in_the_first_ones():
    arms = ["gloo", "router", {"name": "floor", "all_reduce": "vllm/shm", "blocks": 2}]
    orders = ServingExperiment(arms=arms, blocks=4).orders()
    assert [sorted(arm.name for arm in order) for order in orders] == 2 * [["floor", "gloo", "router"]] + 2 * [
        ["gloo", "router"]
    ]


@pytest.mark.parametrize("seed", range(20))
def test_an_arm_with_fewer_blocks_takes_no_place_from_the_others(seed):
    arms = ["gloo", "router", "vllm/shm", {"name": "floor", "all_reduce": "gloo", "blocks": 1}]
    orders = ServingExperiment(arms=arms, blocks=3, seed=seed).orders()
    assert [arm.name for arm in orders[0]][3:] == ["floor"]
    for place in range(3):
        assert {order[place].name for order in orders} == {"gloo", "router", "vllm/shm"}


def test_the_baseline_once_more_is_told_by_what_it_does():
    again = {"name": "gloo again", "all_reduce": "gloo", "blocks": 2}
    other = {"name": "gloo, other flags", "all_reduce": "gloo", "server_args": ["--max-num-seqs", "8"]}
    experiment = ServingExperiment(arms=["router", other, "gloo", again])
    assert [arm.name for arm in experiment.again()] == ["gloo again"]
    assert ServingExperiment().again() == []


def test_orders_are_random_by_seed_and_repeatable():
    def orders(seed):
        return ServingExperiment(seed=seed, blocks=3).orders()

    assert orders(1) == orders(1)
    assert len({tuple(orders(seed)) for seed in range(10)}) > 3


def test_a_block_has_one_seed_of_its_own():
    experiment, other = ServingExperiment(), ServingExperiment(seed=1)
    seeds = [experiment.block_seed(block) for block in (1, 2, 3)] + [other.block_seed(block) for block in (1, 2, 3)]
    assert len(set(seeds)) == 6


def test_options_that_only_sound_secret_are_allowed():
    given = ["--max-num-batched-tokens", "4096", "--tokenizer=a/b", "--hf_overrides", "{}", "--ssl-keyfile", "x"]
    assert ServingExperiment(server_args=given).server_args == tuple(given)


def test_an_a_a_experiment_is_one_arm_twice():
    both = ServingExperiment().a_a("vllm/shm")
    assert both.arm_names == ("vllm/shm", "vllm/shm again") and both.is_a_a
    assert both.pairs() == [("vllm/shm", "vllm/shm again")]
    assert not ServingExperiment().is_a_a


def test_an_arm_is_kept_as_it_was_given():
    given = {"name": "on", "all_reduce": "vllm-default", "environment": {"B": "1", "A": "2"}, "must_use": ["CUSTOM"]}
    arm = ServingExperiment(arms=["gloo", given], treatment="on").arms[1]
    assert Arm.of(arm.as_dict()) == arm and arm.as_dict()["environment"] == given["environment"]


@pytest.mark.parametrize("profile", ["pr20759-b200", "pr20759-h200", "dummy-70b"])
def test_the_shipped_experiments_have_the_load_and_the_arms_of_the_pull_request(profile):
    experiment = ServingExperiment.of(profiles.load(profile).parameters["04_serving"])
    assert (experiment.tp, experiment.qps, experiment.duration_s) == ((4, 8), (1, 5, 10), 60)
    assert (experiment.input_len, experiment.output_len, experiment.prefix_len) == (550, 150, 200)
    off, on, *others, router = experiment.arms
    for arm, switch in ((off, "0"), (on, "1")):
        assert arm.all_reduce == "vllm-default" and "fuse_allreduce_rms" in arm.server_args[1]
        assert dict(arm.environment) == {
            "VLLM_ALLREDUCE_USE_SYMM_MEM": switch, "VLLM_ALLREDUCE_USE_FLASHINFER": "0"
        }  # fmt: skip
    assert (off.must_use, off.must_not_use) == ((), ("SYMM_MEM",))
    assert (on.must_use, on.must_not_use) == (("SYMM_MEM",), ())
    assert off.server_args == on.server_args, "the arms differ in symmetric memory alone"
    assert (experiment.baseline, experiment.treatment, router.all_reduce) == (off.name, router.name, "router")
    if profile == "dummy-70b":
        assert experiment.model == profile and not others
    else:
        assert experiment.model == "meta-llama/Llama-3.1-70B-Instruct"
        assert [arm.all_reduce for arm in others] == ["nccl", "vllm-default"]
