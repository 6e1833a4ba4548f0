"""NCCL's and vLLM's all-reduces for GPUs: where they may run, by records of GPUs, and what real ranks say here."""

import importlib.util
import subprocess
import sys

import pytest
import torch

from symmlib.communicators import distributed, vllm_gpu_peers
from symmlib.communicators.gpu import Gpu
from tests.waiting import PATIENCE_S

NODE = Gpu("NVIDIA H200", (9, 0), 132)
SHARED = Gpu("NVIDIA H200", (9, 0), 132, ranks=4, no_multicast="none")
AMPERE = Gpu("NVIDIA A100", (8, 0), 108)

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")


def test_nccl_runs_where_every_rank_has_a_gpu():
    assert distributed.nccl_support(NODE)
    assert distributed.nccl_support(SHARED).reason == "NCCL needs one GPU a rank, and 4 ranks share one NVIDIA H200"


@pytest.mark.parametrize(("version", "serves"), [((2, 26, 5), False), ((2, 27, 0), True), ((2, 28, 9, "rc1"), True)])
def test_symmetric_windows_need_nccl_2_27_and_a_gpu_for_every_rank(version, serves):
    support = distributed.symmetric_support(NODE, version)
    assert bool(support) is serves
    assert serves or support.reason.endswith("and this is 2.26.5")
    assert not distributed.symmetric_support(SHARED, version)


@pytest.mark.parametrize("world_size", range(2, 9))
def test_vllm_custom_serves_the_world_sizes_that_vllm_names(world_size):
    support = vllm_gpu_peers.custom_support(NODE, world_size)
    assert bool(support) is (world_size in (2, 4, 6, 8))
    assert support or f"not {world_size}" in support.reason
    assert "4 ranks share one NVIDIA H200" in vllm_gpu_peers.custom_support(SHARED, world_size).reason


def test_flashinfer_needs_hopper_and_a_gpu_for_every_rank():
    assert vllm_gpu_peers.flashinfer_support(NODE)
    assert "older than Hopper" in vllm_gpu_peers.flashinfer_support(AMPERE).reason
    assert "4 ranks share one NVIDIA H200" in vllm_gpu_peers.flashinfer_support(SHARED).reason


@pytest.mark.parametrize(
    ("shape", "rows"),
    [((3, 5), (3, 5)), ((512,), (1, 512)), ((4096,), (1, 4096)), ((8192,), (2, 4096)), ((2, 4, 1024), (2, 4096))],
)
def test_flashinfer_is_given_rows_of_the_same_memory(shape, rows):
    tensor = torch.empty(shape)
    given = vllm_gpu_peers.as_rows(tensor)
    assert given.shape == rows and given.data_ptr() == tensor.data_ptr()


def test_what_is_no_whole_number_of_rows_is_not_given_to_flashinfer():
    assert vllm_gpu_peers.as_rows(torch.empty(4097)) is None


@needs_vllm
def test_without_gpus_all_ranks_say_the_first_ones_reason(ranks):
    first, second = ranks("vllm_missing_on_one_rank")
    assert first == second
    everywhere, missing = first
    for name in ("vllm/custom", "vllm/flashinfer"):
        assert "is built for the CPU" in everywhere[name] or "this run is on the CPU" in everywhere[name]
        assert missing[name] == "vLLM is not installed in this environment"


@needs_vllm
def test_vllms_own_classes_open_and_say_themselves_that_they_cannot_serve(ranks):
    for answer in ranks("vllm_classes_without_gpus"):
        reason, kind = answer["vllm/custom"]
        assert kind == "CustomAllreduce" and reason.startswith("vLLM switched its custom all-reduce off")
        reason, kind = answer["vllm/flashinfer"]
        assert kind == "FlashInferAllReduce" and reason.startswith("vLLM does not use FlashInfer")


@needs_vllm
def test_every_call_of_vllm_fits_the_installed_vllm():
    """Names and arguments, by the signatures: what only a node can run must at least be there."""
    calls = """
import inspect
from vllm.distributed.device_communicators.custom_all_reduce import CustomAllreduce
from vllm.distributed.device_communicators.flashinfer_all_reduce import FlashInferAllReduce, fi_ar_available

fits = lambda call, *given, **named: inspect.signature(call).bind("self", *given, **named)
fits(CustomAllreduce.__init__, "group", "device")
fits(CustomAllreduce.should_custom_ar, "tensor")
fits(CustomAllreduce.all_reduce, "tensor", out="out", registered=True)
fits(CustomAllreduce.capture), fits(CustomAllreduce.close)
fits(FlashInferAllReduce.__init__, "group", "device")
fits(FlashInferAllReduce.should_use_fi_ar, "tensor")
fits(FlashInferAllReduce.all_reduce, "tensor"), fits(FlashInferAllReduce.destroy)
"""
    done = subprocess.run([sys.executable, "-c", calls], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr[-2000:]
