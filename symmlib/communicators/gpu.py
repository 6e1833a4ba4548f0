"""What of the ranks' GPUs decides which kernels run on them, how large, and by which routing table.

What a GPU can hold is arithmetic on a record, so that a laptop can ask what a node would do.
"""

import functools
from dataclasses import dataclass

import torch
import torch.distributed as dist

from symmlib.backends import ONE_GPU
from symmlib.communicators import base

REGISTERS = 1 << 16  # 32-bit ones of a multiprocessor, from Volta to Blackwell (CUDA programming guide, appendix)
THREADS = 2048  # resident on a multiprocessor of the data-centre GPUs of the same generations
BLOCKS = 32  # likewise
WARP = 32
SPARE = 8  # multiprocessors that waiting ranks leave to the one that they wait for, where that only adds and checks
HELD_BESIDE_A_MODEL = 24  # multiprocessors that they hold at most where it computes a model's layer: docs/one-gpu.md
REGISTERS_AT_ONCE = 8  # a warp's registers are given out in units of 8 a thread


@dataclass(frozen=True)
class Gpu:
    """This rank's GPU as the group sees it.

    Args:
        name: as the driver gives it.
        capability: (major, minor), such as (9, 0) for Hopper.
        multiprocessors: how many it has; where ranks' GPUs differ, the least, as of the capabilities.
        ranks: how many ranks of the group run on it: 1 on a node, more where they share it (MPS).
        no_multicast: why the GPUs cannot sum in an NVSwitch; empty where they can.
        beside_a_model: whether ranks that share it compute a model on it, between all-reduces.
    """

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    ranks: int = 1
    no_multicast: str = ""
    beside_a_model: bool = False

    @property
    def key(self) -> str:
        """How routing tables name it: "sm_90", or "sm_90/one-gpu" where ranks share it."""
        return f"sm_{self.capability[0]}{self.capability[1]}{ONE_GPU if self.ranks > 1 else ''}"

    def resident_blocks(self, threads: int, registers: int, shared_bytes: int = 0) -> int:
        """Blocks that one rank's kernel may have when blocks wait for those of other ranks, so that nothing hangs.

        Alone on its GPU, a rank may fill it. Ranks that share one must fit together, every block of each: one that has
        no place until another ends would be waited for by blocks that do not end before it has run. And while all ranks
        but one wait in such a kernel, the last one may still have other work to do before it comes: so blocks that wait
        leave `SPARE` multiprocessors empty. Room beside a waiting block is not enough, because a multiprocessor divides
        its memory between cache and shared memory when it is empty only; with 3 of 4 ranks waiting on all of them, a
        sum over a tensor never started (seen on an H200). Beside a model more must be empty, and each one that they
        hold slows it down: they hold at most `HELD_BESIDE_A_MODEL`.

        `threads` of a block, `registers` of a thread, `shared_bytes` of a block, of 227 KiB on Hopper and Blackwell.
        """
        warps = -(-threads // WARP)
        by_registers = REGISTERS // (-(-registers // REGISTERS_AT_ONCE) * REGISTERS_AT_ONCE * WARP * warps)
        by_shared = (227 << 10) // (shared_bytes + 1024) if shared_bytes else BLOCKS
        per_multiprocessor = min(by_registers, by_shared, THREADS // (warps * WARP), BLOCKS)
        together = self.multiprocessors * per_multiprocessor // self.ranks
        if self.ranks == 1:
            return together
        held = HELD_BESIDE_A_MODEL if self.beside_a_model else self.multiprocessors - SPARE
        return min(together, held // (self.ranks - 1))


def describe(group: dist.ProcessGroup, device: torch.device, beside_a_model: bool = False) -> Gpu:
    """This rank's GPU. A collective over `group`, which carries CPU objects: ranks tell each other which is theirs.

    `device` is a CUDA device; `beside_a_model` as in `Gpu`. All but the name is the same on every rank; see `common`.
    """
    properties = torch.cuda.get_device_properties(device)
    mine = str(properties.uuid), (properties.major, properties.minor), properties.multi_processor_count
    everyone = [mine] * group.size()
    dist.all_gather_object(everyone, mine, group=group)
    return common(properties.name, everyone, base.agree(group, _multicast(device)).reason, beside_a_model)


def common(
    name: str, everyone: list[tuple[str, tuple[int, int], int]], no_multicast: str, beside_a_model: bool = False
) -> Gpu:
    """What ranks whose GPUs are (uuid, capability, multiprocessors) may all count on: grids and tables follow from it,
    and ranks with different ones would wait for blocks that do not come. `ranks` is that of the GPU with the most."""
    identities, capabilities, multiprocessors = zip(*everyone, strict=True)
    shared = max(identities.count(one) for one in identities)
    return Gpu(name, min(capabilities), min(multiprocessors), shared, no_multicast, beside_a_model)


def cuda_support(device: torch.device) -> base.Support:
    """Whether `device` is a GPU that this torch can use."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return base.no("symmetric memory needs CUDA GPUs, and this run is on the CPU; host/* is its stand-in here")
    return base.YES


def peer_support(gpu: Gpu, world_size: int) -> base.Support:
    """Whether kernels over symmetric memory can run on such GPUs."""
    if gpu.capability[0] < 9:
        return base.no(f"{gpu.name} is older than Hopper (sm_90)")
    if world_size < 2:
        return base.no("there is nothing to reduce over one rank")
    return base.YES


def tensor_support(tensor: torch.Tensor, device: torch.device, max_bytes: int) -> base.Support:
    """Whether kernels on `device` for messages of up to `max_bytes` take `tensor`, its dtype aside."""
    if tensor.device != device:
        return base.no(f"the tensor is on {tensor.device}, this communicator on {device}")
    if not tensor.numel():
        return base.no("the tensor is empty")
    if tensor.nbytes > max_bytes:
        return base.no(f"{tensor.nbytes} bytes are more than this backend takes, {max_bytes} bytes")
    return base.YES


def _multicast(device: torch.device) -> base.Support:
    """Whether the driver says that this GPU has multicast; that a group has it, only a rendezvous tells."""
    from torch._C._autograd import DeviceType
    from torch._C._distributed_c10d import _SymmetricMemory

    index = device.index if device.index is not None else torch.cuda.current_device()
    if not _SymmetricMemory.has_multicast_support(DeviceType.CUDA, index):
        return base.no("these GPUs have no NVLink multicast (an NVSwitch), which multimem needs; two_shot does not")
    return base.YES


class OneStream:
    """Keeps kernels that wait for peers in one order: those of two streams could each wait for a rank that runs the
    other's first.

    Ranks call operations in the same order, so it is enough that each rank's GPU runs them in that order. `enter`
    before each: where the current stream has changed, it waits for what the one before still has to do. It sees calls
    only: while a CUDA graph is captured it does nothing, and of replays it does not know. Whoever replays a graph on
    another stream than the last call's or replay's lets that stream wait.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._last: torch.cuda.Stream | None = None

    def enter(self) -> None:
        if torch.cuda.is_current_stream_capturing():
            return
        current = torch.cuda.current_stream(self._device)
        if self._last is not None and current != self._last:
            current.wait_stream(self._last)
        self._last = current


@functools.cache
def one_stream(device: torch.device) -> OneStream:
    """The `OneStream` that all communicators of this process on `device` share: kernels of two of them, such as
    `triton/*` and `symm_mem/*` behind one router, could wait for each other no less than those of one."""
    return OneStream(device)
