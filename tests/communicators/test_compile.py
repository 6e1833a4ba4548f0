"""torch.compile through the router, by real ranks: whole graphs, the same values, and errors instead of wrong ones."""

import os
import shutil

import pytest

COMPILER = shutil.which(os.environ.get("CXX", "g++"))
inductor = pytest.param("inductor", marks=pytest.mark.skipif(not COMPILER, reason="inductor needs a C++ compiler"))


@pytest.mark.parametrize("backend", ["aot_eager", inductor])
def test_a_module_with_several_all_reduces_compiles_whole_and_gives_the_values_of_eager(ranks, backend):
    for answer in ranks(f"compile_scenarios.{backend}"):
        assert len(answer["differences"]) == 4
        # Inductor may round once where eager rounds twice; aot_eager runs the very same operations.
        assert max(answer["differences"].values()) <= (1e-5 if backend == "inductor" else 0)


@pytest.mark.parametrize("backend", ["aot_eager", inductor])
def test_a_compiled_program_chooses_and_counts_at_each_call_as_eager_does(ranks, backend):
    for answer in ranks(f"compile_scenarios.{backend}"):
        # 2 + 2 all-reduces of a block and 3 + 3 in place, twice, at two sizes, one size and one size.
        assert answer["calls"] == {"host/one_shot": 40, "host/two_shot": 20, "gloo": 20}


def test_a_module_given_another_router_is_compiled_anew_and_a_closed_one_is_an_error(ranks):
    for answer in ranks("compile_scenarios.another_router"):
        assert answer["difference"] == 0
        first, second = answer["names"]
        assert first != second
        assert answer["said"].startswith(f"{second} was closed or is gone")


def test_the_operators_pass_torchs_own_checks_for_tensors_of_every_kind(ranks):
    for answer in ranks("compile_scenarios.operator_checks"):
        assert set(answer) == {"small", "by gloo", "strided", "empty", "no table"}
        for found in answer.values():
            assert len(found) == 9 and set(found[:-1]) == {"SUCCESS"} and found[-1] is True


def test_a_tensor_that_wants_a_gradient_is_refused_compiled_or_not(ranks):
    for answer in ranks("compile_scenarios.operator_refusals"):
        for case in ("gradient", "gradient, compiled", "gradient, out"):
            assert "symmlib's all-reduce has no backward" in answer[case]
        assert answer["sum without a gradient"] == 2.0


def test_a_router_that_is_not_there_is_named_in_the_error(ranks):
    for answer in ranks("compile_scenarios.operator_refusals"):
        assert answer["unknown"].startswith("SymmlibError: router-0 was closed or is gone")
        assert answer["closed"].startswith("SymmlibError: router-1 was closed or is gone")
