"""Opening backends by name: what is missing is said on all ranks alike, and nothing raises for it."""


def test_one_rank_without_a_feature_disables_it_on_all_with_the_same_words(ranks):
    first, second = ranks("one_rank_cannot")
    assert first == second
    assert first["gloo"] == ""
    assert first["host/one_shot"] == first["host/two_shot"]
    assert first["host/one_shot"].startswith("rank 1: ") and "Linux" in first["host/one_shot"]
    assert "CUDA" in first["symm_mem/two_shot"]
    for name in ("nccl", "nccl/symmetric"):
        assert first[name] == "NCCL serves CUDA tensors, and this run is on the CPU"


def test_an_out_that_is_not_as_the_input_is_refused_and_never_broadcast_into(ranks):
    for answer in ranks("out_is_not_as_the_input"):
        shape, dtype = answer["gloo"]
        assert shape.startswith("gloo needs out as the input, (4,) of torch.float32 on cpu, and it is (2, 4) of")
        assert dtype.endswith("and it is (4,) of torch.float64 on cpu")
        assert len(answer["host/one_shot"]) == 2 and "(4,)" in answer["host/one_shot"][0]
        assert answer["router"] == answer["host/one_shot"]


def test_a_name_that_no_backend_has_is_an_error_with_the_nearest_one(ranks):
    for answer in ranks("unknown_backend"):
        assert answer["error"] == "UsageError"
        assert "host/three_shot" in answer["message"] and "Did you mean" in answer["message"]
