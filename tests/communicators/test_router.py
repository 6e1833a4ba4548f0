"""The router with real ranks: sizes to backends, everything else to the fallback, and one table for all."""


def test_sizes_go_where_the_table_says_and_the_rest_to_the_fallback_with_a_reason(ranks):
    first, second = ranks("routes")
    assert first == second
    backend = {kind: answer[0] for kind, answer in first.items()}
    reason = {kind: answer[1] for kind, answer in first.items()}
    assert backend["small"] == "host/two_shot" and "64 B" in reason["small"]
    assert backend["large"] == "host/one_shot"
    assert backend["middle"] == "gloo" and "triton/one_shot is unavailable" in reason["middle"]
    assert backend["strided"] == "gloo" and "not contiguous" in reason["strided"]
    assert backend["no table"] == "gloo" and "no table for torch.float16" in reason["no table"]
    assert backend["integers"] == "gloo"
    assert all(first[kind][2] for kind in ("small", "middle", "large", "strided", "no table", "integers"))


def test_a_batch_invariant_router_serves_every_size_by_one_backend(ranks):
    assert ranks("routes")[0]["invariant"] == ["host/one_shot", "host/one_shot"]


def test_calls_are_counted_and_explained_by_what_served_them(ranks):
    answer = ranks("routes")[0]
    assert answer["counted"] == ["gloo", "gloo", "gloo", "gloo", "host/one_shot", "host/two_shot"]
    assert answer["explained"][:3] == ["host/two_shot", "gloo", "host/one_shot"]


def test_ranks_with_different_tables_all_get_the_same_error(ranks):
    first, second = ranks("tables_differ")
    assert first == second
    assert first.startswith("RanksDisagree: the ranks' routers differ in table (rank 0: ")
