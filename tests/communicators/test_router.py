"""The router with real ranks: sizes to backends, everything else to the fallback, and one table for all."""

import pytest


def test_sizes_go_where_the_table_says_and_the_rest_to_the_fallback_with_a_reason(ranks):
    first, second = ranks("routes")
    assert first == second
    tensors = ("small", "middle", "large", "strided", "no table", "integers")
    backend, reason, right = ({kind: first[kind][part] for kind in tensors} for part in range(3))
    assert backend["small"] == "host/two_shot" and "64 B" in reason["small"]
    assert backend["large"] == "host/one_shot"
    assert backend["middle"] == "gloo" and "symm_mem/multimem is unavailable" in reason["middle"]
    assert backend["strided"] == "gloo" and "not contiguous" in reason["strided"]
    assert backend["no table"] == "gloo" and "no table for cpu, world size 2, float16" in reason["no table"]
    assert backend["integers"] == "gloo"
    assert all(right.values())


def test_a_batch_invariant_router_serves_every_size_by_one_backend(ranks):
    assert ranks("routes")[0]["invariant"] == ["host/one_shot", "host/one_shot"]


def test_calls_are_counted_and_explained_by_what_served_them(ranks):
    answer = ranks("routes")[0]
    assert answer["counted"] == ["gloo", "gloo", "gloo", "gloo", "host/one_shot", "host/two_shot"]
    assert answer["explained"][:3] == ["host/two_shot", "gloo", "host/one_shot"]
    (refusal,) = answer["refusals"]  # of the second route
    assert refusal in answer["middle"][1] and "is unavailable: " in refusal


def test_ranks_with_different_tables_all_get_the_same_error(ranks):
    first, second = ranks("tables_differ")
    assert first == second
    assert first.startswith("RanksDisagree: the ranks' routers differ in table (rank 0: ")


def test_ranks_with_different_settings_all_get_the_same_error(ranks):
    first, second = ranks("settings_differ")
    assert first == second
    assert first.startswith("RanksDisagree: the ranks' routers differ in batch_invariant (rank 0: False, rank 1: True)")


def test_a_feature_that_one_rank_lacks_sends_all_ranks_to_the_fallback_for_one_reason(ranks):
    first, second = ranks("router_without_a_feature")
    assert first == second
    backend, reason, total = first
    assert (backend, total) == ("gloo", 2.0)
    assert "host/one_shot is unavailable: rank 1: " in reason


def test_without_a_fallback_the_table_is_served_and_all_else_is_an_error_with_both_reasons(ranks):
    first, second = ranks("router_without_a_fallback")
    assert first == second
    assert first["served"] == [2.0, True, "host/one_shot"]
    assert first["counted"] == [["host/one_shot", 1]]
    large, other_dtype, strided, integers = first["refused"]
    why = "; the fallback, gloo, is unavailable: switched off"
    for (said, unsupported), what, reason in (
        (large, "8 KiB of torch.bfloat16 on cpu", "symm_mem/two_shot is unavailable: "),
        (other_dtype, "32 B of torch.float32 on cpu", "no table for cpu, world size 2, float32, eager"),
        (strided, "128 B of torch.bfloat16 on cpu", "host/one_shot: the tensor is not contiguous"),
        (integers, "64 B of torch.int64 on cpu", "no table covers dtype torch.int64"),
    ):
        assert said == f"nothing here can all-reduce {what}: {unsupported}"
        assert unsupported.startswith(reason) and unsupported.endswith(why)


def test_a_slow_rank_is_waited_for(ranks):
    assert ranks("router_with_a_slow_rank", 3) == [3.0, 3.0, 3.0]


@pytest.mark.parametrize("scenario", ["router_without_a_rank", "router_with_a_rank_that_never_comes"])
def test_a_missing_rank_is_an_error_on_all_others_in_bounded_time(ranks, scenario):
    *others, _ = ranks(scenario, 3)
    for answer in others:
        assert answer["said"].startswith("RankLost: not every rank made its router within 2 s")
        assert answer["seconds"] < 200  # 300 where nobody says how long


def test_a_batch_invariant_router_gives_a_row_the_same_bits_in_any_batch_and_routes_by_size_do_not(ranks):
    for answer in ranks("batch_invariance", 3):
        assert answer == {"False": False, "True": True}
