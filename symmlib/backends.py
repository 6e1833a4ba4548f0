"""Every backend's name and what it is, in one line each; free of torch, so that tables and plans can check names.

`symmlib.communicators.catalog` opens them; routing tables, plans and the command line accept no other names.
"""

BACKENDS: dict[str, str] = {
    "gloo": "torch.distributed over TCP on the host, the baseline without a GPU",
    "nccl": "torch.distributed over NCCL, the baseline on GPUs",
    "nccl/symmetric": "NCCL's kernels for memory registered as symmetric windows",
    "symm_mem/one_shot": "PyTorch symmetric memory: every rank reads all inputs and sums them",
    "symm_mem/two_shot": "PyTorch symmetric memory: every rank sums its share, then reads the others' shares",
    "symm_mem/multimem": "PyTorch symmetric memory: the NVLink switch sums (needs multicast)",
    "triton/one_shot": "a Triton kernel: every rank reads all inputs and sums them in fp32",
    "triton/two_shot": "a Triton kernel: every rank sums its share in fp32, then reads the others' shares",
    "host/one_shot": "our compiled CPU kernel over shared memory: every rank sums all inputs in fp32",
    "host/two_shot": "our compiled CPU kernel over shared memory: every rank sums its share, then gathers",
    "vllm/shm": "vLLM's CPU all-reduce over shared memory",
    "vllm/custom": "vLLM's custom all-reduce over CUDA IPC",
    "vllm/symm_mem": "vLLM's use of PyTorch symmetric memory",
    "vllm/flashinfer": "vLLM's use of FlashInfer's all-reduce",
}
ONE_GPU = "/one-gpu"  # ends a `device` where ranks share a GPU: what is measured there holds for no node
# Those that sum every element in the order of ranks, wherever in a message it stands.
FIXED_ORDER = ("triton/one_shot", "triton/two_shot", "host/one_shot", "host/two_shot")


def runs_on_cpu(name: str) -> bool:
    """Whether the backend `name` sums tensors in the host's memory; all others need a GPU."""
    return name in ("gloo", "vllm/shm") or name.startswith("host/")
