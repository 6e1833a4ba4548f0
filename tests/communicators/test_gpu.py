"""What would run on which GPUs, asked of records of GPUs that are not here; and the kernels, compiled for them."""

import random
from dataclasses import replace

import pytest
import torch

from symmlib.communicators import base, symm_mem, triton
from symmlib.communicators.gpu import HELD_BESIDE_A_MODEL, SPARE, Gpu, common, one_stream, peer_support

H200 = Gpu("NVIDIA H200", (9, 0), 132)
B200 = Gpu("NVIDIA B200", (10, 0), 148)
A100 = Gpu("NVIDIA A100", (8, 0), 108)


def shared(gpu: Gpu, ranks: int) -> Gpu:
    return Gpu(gpu.name, gpu.capability, gpu.multiprocessors, ranks)


def test_a_shared_gpu_has_another_key_than_the_same_gpu_in_a_node():
    assert H200.key == "sm_90" and B200.key == "sm_100"
    assert shared(H200, 2).key == "sm_90/one-gpu"


def test_ranks_count_on_what_all_their_gpus_have():
    h200, h100_pcie, b200 = ("a", (9, 0), 132), ("b", (9, 0), 114), ("c", (10, 0), 148)
    assert common("NVIDIA H200", [h200, h100_pcie], "") == Gpu("NVIDIA H200", (9, 0), 114)
    assert common("NVIDIA B200", [b200, h200], "none").key == "sm_90"
    assert common("NVIDIA H200", [h200, h200, h100_pcie, h200], "").ranks == 3


def test_all_communicators_of_a_gpu_keep_one_order():
    first, second = torch.device("cuda", 0), torch.device("cuda", 1)
    assert one_stream(torch.device("cuda:0")) is one_stream(first)
    assert one_stream(first) is not one_stream(second)


@pytest.mark.parametrize("why_not", [peer_support, triton.why_not])
def test_hopper_and_newer_with_peers_are_served_and_others_get_the_reason(why_not):
    assert why_not(H200, 8) and why_not(B200, 2)
    assert "older than Hopper" in why_not(A100, 8).reason
    assert why_not(H200, 1).reason
    without = Gpu("NVIDIA H200", (9, 0), 132, no_multicast="no NVSwitch")
    assert why_not(without, 8), "multicast is multimem's concern alone"


def test_flags_are_kept_for_eight_ranks():
    assert "9 ranks" in triton.why_not(H200, 9).reason


def test_a_rank_alone_on_its_gpu_may_fill_it():
    assert H200.resident_blocks(threads=1024, registers=64) == 132
    assert H200.resident_blocks(threads=1024, registers=32) == 264
    assert H200.resident_blocks(threads=128, registers=168) == 132 * 3
    assert H200.resident_blocks(threads=512, registers=64, shared_bytes=100 << 10) == 132 * 2


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("gpu", [H200, B200, Gpu("NVIDIA H20", (9, 0), 78)])
def test_ranks_that_share_a_gpu_fit_on_it_together_and_leave_room_for_the_one_they_wait_for(gpu, ranks):
    for threads, registers, per_multiprocessor in ((1024, 64, 1), (512, 64, 2), (256, 32, 8)):
        blocks = shared(gpu, ranks).resident_blocks(threads, registers)
        assert blocks >= 1
        assert ranks * blocks <= per_multiprocessor * gpu.multiprocessors
        assert (ranks - 1) * blocks <= gpu.multiprocessors - SPARE
        beside_a_model = replace(shared(gpu, ranks), beside_a_model=True).resident_blocks(threads, registers)
        assert 1 <= beside_a_model <= blocks
        assert (ranks - 1) * beside_a_model <= HELD_BESIDE_A_MODEL


def test_torchs_kernels_are_cut_where_their_grids_would_not_fit_and_nowhere_else():
    assert symm_mem.TWO_SHOT.largest(H200, 8) is None
    assert symm_mem.TWO_SHOT.largest(shared(H200, 4), 4) is None
    # 132 multiprocessors hold 16 blocks of each of 8 ranks: 16 * 1024 threads * 16 bytes * 8 parts.
    assert symm_mem.TWO_SHOT.largest(shared(H200, 8), 8) == 2 << 20
    # Of one-shot's, two of which fit on each, 17, so that 7 ranks that wait leave 8 of 132 free: 17 * 512 * 16 bytes.
    assert symm_mem.ONE_SHOT.largest(shared(H200, 8), 8) == 136 << 10
    assert symm_mem.ONE_SHOT.largest(shared(H200, 4), 4) is None
    assert symm_mem.chunks(5 << 20, 2 << 20) == [(0, 2 << 20), (2 << 20, 4 << 20), (4 << 20, 5 << 20)]
    assert symm_mem.chunks(100, None) == [(0, 100)]


@pytest.mark.parametrize("world_size", [2, 3, 4, 6, 8])
@pytest.mark.parametrize(
    "gpu",
    [H200, B200, shared(H200, 2), shared(H200, 4), shared(H200, 8), replace(shared(H200, 4), beside_a_model=True)],
)
@pytest.mark.parametrize("algorithm", [triton.ONE_SHOT, triton.TWO_SHOT])
def test_every_message_is_covered_by_shares_that_fit_their_regions(algorithm, gpu, world_size):
    region = algorithm.region_bytes(gpu, world_size)
    rng = random.Random(0)
    for itemsize in (2, 4):
        largest = algorithm.max_bytes // itemsize
        for numel in (1, 7, 8, 129, 8192, largest - 1, largest, *(rng.randint(1, largest) for _ in range(300))):
            blocks, share = algorithm.shape(numel, itemsize, world_size, gpu)
            assert 1 <= blocks <= algorithm.max_blocks(gpu)
            assert (blocks - 1) * share < numel <= blocks * share, "no block is idle, no element left out"
            assert share % (triton.UNIT * world_size) == 0
            assert share * itemsize <= region


class Doubles:
    """A communicator of two ranks with the same input, on the CPU; everything around the kernels is as on a GPU."""

    device, support = torch.device("cpu"), base.YES
    check = triton.TritonCommunicator.check

    def launch(self, algorithm, tensor, out):
        assert tensor.is_contiguous() and out.is_contiguous()
        torch.add(tensor, tensor, out=out)


@pytest.mark.parametrize("algorithm", [triton.ONE_SHOT, triton.TWO_SHOT])
def test_a_backend_bound_to_a_length_serves_what_it_serves_by_itself(algorithm):
    backend, numel = triton.TritonBackend(algorithm, Doubles()), 4096
    launch = base.bind(backend, torch.bfloat16, numel)
    plain = torch.arange(numel, dtype=torch.float32).remainder(100).bfloat16()
    strided, out = plain.repeat_interleave(2)[::2], torch.empty_like(plain)
    assert torch.equal(launch(plain, None), plain * 2) and torch.equal(launch(strided, None), plain * 2)
    assert launch(plain, out) is out and torch.equal(out, plain * 2)
    wide = torch.empty(2 * numel, dtype=torch.bfloat16)[::2]
    assert launch(plain, wide) is wide and torch.equal(wide, plain * 2)
    itself = plain.clone()
    assert launch(itself, itself) is itself and torch.equal(itself, plain * 2)
    too_long = torch.empty(algorithm.max_bytes // 2 + 16, dtype=torch.bfloat16)
    assert base.bind(backend, torch.bfloat16, too_long.numel())(too_long, None) is None
    assert base.bind(backend, torch.int32, 16)(torch.empty(16, dtype=torch.int32), None) is None


@pytest.mark.parametrize("capability", [90, 100])
@pytest.mark.parametrize("world_size", [2, 8])
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_kernels_compile_for_hopper_and_blackwell_and_move_whole_vectors(capability, world_size, dtype):
    for algorithm, function in kernels("ONE_SHOT", "TWO_SHOT"):
        ptx = compiled(algorithm, function, dtype, capability, world_size, aligned=True).asm["ptx"]
        assert "ld.global.v4" in ptx and "st.global.v4" in ptx
        assert "st.global.b16" not in ptx and "ld.global.b16" not in ptx, "elements one at a time"
        meetings = 1 if algorithm is triton.ONE_SHOT else 2
        assert ptx.count("st.release.sys") == ptx.count("ld.acquire.sys") == meetings


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_as_many_blocks_fit_on_a_multiprocessor_as_was_counted_on_before_they_were_compiled(dtype, aligned):
    names = ("ONE_SHOT", "TWO_SHOT") if aligned else ("ONE_SHOT_UNALIGNED", "TWO_SHOT_UNALIGNED")
    for algorithm, function in kernels(*names):
        kernel = compiled(algorithm, function, dtype, 90, 8, aligned=aligned)
        threads, alone = algorithm.warps * 32, Gpu("", (9, 0), 1)
        assert kernel.metadata.num_warps == algorithm.warps and f".maxnreg {triton.REGISTERS}" in kernel.asm["ptx"]
        counted_on = alone.resident_blocks(threads, triton.REGISTERS)
        assert alone.resident_blocks(threads, triton.REGISTERS, kernel.metadata.shared) == counted_on


def kernels(*names: str) -> list:
    """One-shot's and two-shot's launch, with those of our kernels that have these names."""
    module = pytest.importorskip("symmlib.communicators.triton_kernels")
    return list(zip((triton.ONE_SHOT, triton.TWO_SHOT), (getattr(module, name) for name in names), strict=True))


def compiled(algorithm, function, dtype: str, capability: int, world_size: int, *, aligned: bool):
    """One of our kernels as Triton compiles it, without a GPU."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    element = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[dtype]
    gpu = Gpu("", (capability // 10, capability % 10), 132)
    constants = triton.constants(algorithm, element, gpu, world_size, flags=0, staging=4096, aligned=aligned)
    options = {name: constants.pop(name) for name in ("num_warps", "maxnreg")}
    place = {name: (number,) for number, name in enumerate(function.arg_names)}
    signature = {name: "i32" for name in place} | {"source": f"*{dtype}", "target": f"*{dtype}"}
    signature |= {"peers": "*i64", "epochs": "*i32"} | dict.fromkeys(constants, "constexpr")
    divisible = ["share", "part", "peers", "epochs", *(["source", "target", "numel"] if aligned else [])]
    source = ASTSource(
        fn=function,
        signature={name: signature[name] for name in place},
        constexprs={place[name]: value for name, value in constants.items()},
        attrs={place[name]: [["tt.divisibility", 16]] for name in divisible if name in place},
    )
    return compile(source, target=GPUTarget("cuda", capability, 32), options=options)
