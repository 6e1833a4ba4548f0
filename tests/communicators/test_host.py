"""Host shared memory with real ranks: right sums, refusals with reasons, and no waiting for the dead."""

import json
from pathlib import Path

import pytest


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_sums_are_those_of_fp32_in_rank_order_to_the_bit_on_every_rank(ranks, world_size):
    assert ranks("sums", world_size) == [[]] * world_size


def test_special_values_follow_ieee_and_both_algorithms_agree_on_them(ranks):
    answers = ranks("special_values")
    assert answers[0] == answers[1]
    for dtype, by_backend in answers[0].items():
        top = "inf" if dtype == "torch.float16" else "119808.0" if dtype == "torch.bfloat16" else "120000.0"
        assert set(by_backend.values()) == {f"[nan, inf, nan, {top}, -0.0, 2.0]"}


def test_an_empty_tensor_is_summed_and_what_cannot_be_is_refused_with_the_reason(ranks):
    for answer in ranks("empty_and_refused"):
        assert answer["empty"] == [0, 4]
        assert "torch.int32" in answer["int"] and "bfloat16" in answer["int"]
        assert "contiguous" in answer["strided"]
        assert "(4,)" in answer["out"]


@pytest.mark.parametrize("world_size", [2, 4])
def test_a_killed_rank_makes_all_others_raise_at_once_and_keeps_the_communicator_shut(ranks, world_size):
    *living, killed = ranks("peer_dies", world_size)
    assert killed is None
    for answer in living:
        first, second = answer["said"]
        assert first.startswith(f"RankLost: rank {world_size - 1} (process ")
        assert "out of use" in second and "died" in second
        assert answer["seconds"] < 200  # a living rank is given 300 s


def test_a_rank_that_did_its_part_may_leave_before_the_others_have_read_it(ranks):
    assert ranks("peer_ends_well", 3) == [3.0, 3.0, 3.0]


def test_a_rank_that_lives_but_does_not_come_is_given_up_after_the_time_out(ranks):
    late, lives = ranks("peer_is_late")
    assert lives == "lives"
    assert late.startswith("RankLost: rank 1 did not come") and "0.5 s" in late


def test_ranks_that_call_different_operations_are_told_so_instead_of_summing_garbage(ranks):
    assert "RanksDisagree" in ranks("ranks_differ")


def test_no_shared_memory_is_left_behind_by_ranks_that_end_or_are_killed(ranks):
    before = set(Path("/dev/shm").iterdir())
    ranks("sums")
    ranks("peer_dies")
    left = [path.name for path in set(Path("/dev/shm").iterdir()) - before]
    assert not [name for name in left if "symmlib" in name], json.dumps(left)
