"""What one rank does in a test: `python scenarios.py NAME WORLD_SIZE DIRECTORY`, run by the fixture `ranks`.

A scenario returns something that JSON can hold; an error of symmlib's becomes {"error": type, "message": text}. A NAME
with a dot is one of another file beside this one.
"""

import importlib.util
import json
import os
import select
import signal
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path

import torch
import torch.distributed as dist

from symmlib.communicators import host_kernels  # noqa: F401 (compiled before the ranks are forked)
from symmlib.communicators.catalog import close_backends, open_backends
from symmlib.communicators.host import HostCommunicator
from symmlib.communicators.vllm_gpu_peers import VllmCustom, VllmFlashInfer
from symmlib.errors import SymmlibError
from symmlib.routing import Route, Router, RoutingTable, Table

HOST = ("host/one_shot", "host/two_shot")
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def tensor_of(rank: int, numel: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(numel, generator=torch.Generator().manual_seed(97 * numel + rank)).to(dtype)


def sum_in_rank_order(world_size: int, numel: int, dtype: torch.dtype) -> torch.Tensor:
    total = torch.zeros(numel)
    for rank in range(world_size):
        total = total + tensor_of(rank, numel, dtype).float()
    return total.to(dtype)


def sums(rank, world_size):
    """Sums of every dtype and of sizes around vectors, slices and chunks, in place, out of place and unaligned."""
    wrong = []
    communicator = HostCommunicator(dist.group.WORLD, slot_bytes=4096)
    for dtype in DTYPES:
        for numel in (1, 2, 3, 15, 31, 32, 33, 63, 65, 1000, 1024, 2047, 2048, 2049, 4097, 50_001):
            mine, want = tensor_of(rank, numel, dtype), sum_in_rank_order(world_size, numel, dtype)
            for name, backend in communicator.backends.items():
                before = mine.clone()
                poisoned = torch.full((numel + 1,), float("nan"), dtype=dtype)[1:]  # starts at an odd address
                result = backend.all_reduce(mine, out=poisoned)
                in_place = mine.clone()
                backend.all_reduce(in_place, out=in_place)
                fresh = backend.all_reduce(mine)
                same = torch.equal(result, want) and torch.equal(in_place, want) and torch.equal(fresh, want)
                if not same or not torch.equal(mine, before) or result is not poisoned:
                    wrong.append([name, str(dtype), numel])
    return wrong


def special_values(rank, world_size):
    """Sums with NaN, infinities and overflow, as text."""
    communicator = HostCommunicator(dist.group.WORLD)
    values = [float("nan"), float("inf"), [float("inf"), float("-inf")][rank], 60000.0, -0.0, 1.0]
    return {
        str(dtype): {
            name: str(b.all_reduce(torch.tensor(values, dtype=dtype)).tolist())
            for name, b in communicator.backends.items()
        }
        for dtype in DTYPES
    }


def empty_and_refused(rank, world_size):
    communicator = HostCommunicator(dist.group.WORLD)
    backend = communicator.backends["host/one_shot"]
    empty = backend.all_reduce(torch.empty(0, 4))
    return {
        "empty": list(empty.shape),
        "int": backend.supports(torch.ones(4, dtype=torch.int32)).reason,
        "strided": backend.supports(torch.ones(4, 4).t()).reason,
        "out": communicator.check(torch.ones(4), torch.ones(5)).reason,
    }


def out_is_not_as_the_input(rank, world_size):
    """What each backend says to an `out` of another shape or dtype, and the router to one that its route refuses."""
    router = Router(
        dist.group.WORLD, _cpu_table(world_size, Route(None, "host/one_shot"), dtype="float32"), device="cpu"
    )
    others = {"gloo": router.backends["gloo"], "host/one_shot": router.backends["host/one_shot"], "router": router}
    said = {}
    for name, backend in others.items():
        for out in (torch.empty(2, 4), torch.empty(4, dtype=torch.float64)):
            try:
                backend.all_reduce(torch.ones(4), out=out)
            except SymmlibError as error:
                said.setdefault(name, []).append(str(error))
    router.close()
    return said


def peer_dies(rank, world_size):
    """The last rank is killed between two operations; how long the others need to say so, and what they say later."""
    communicator = HostCommunicator(dist.group.WORLD)
    backend = communicator.backends["host/two_shot"]
    backend.all_reduce(torch.ones(1000))
    if rank == world_size - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    started, said = time.monotonic(), []
    for _ in range(2):
        try:
            backend.all_reduce(torch.ones(1000))
        except SymmlibError as error:
            said.append(f"{type(error).__name__}: {error}")
    return {"said": said, "seconds": time.monotonic() - started}


def peer_ends_well(rank, world_size):
    """Rank 1 does its part of the last operation and exits, while rank 2 starts only when rank 1 is gone."""
    communicator = HostCommunicator(dist.group.WORLD)
    backend = communicator.backends["host/one_shot"]
    if rank == 1:  # publish, then leave without waiting for the others' parts
        communicator._state[communicator._module.PATIENCE] = 0
        tensor = torch.ones(8)
        signature = (8 << 8) | (communicator._codes[tensor.dtype] << 4) | 1
        address = tensor.data_ptr()
        backend._kernel(communicator._control, address, address, 8, communicator._codes[tensor.dtype], signature)
        return 3.0
    if rank == 2:
        select.select([communicator._pidfds[1]], [], [])
    return float(backend.all_reduce(torch.ones(8))[0])


def peer_is_late(rank, world_size):
    """The last rank never comes, but lives: the others give up after their time-out."""
    communicator = HostCommunicator(dist.group.WORLD, timeout_s=0.5)
    if rank == world_size - 1:
        dist.barrier()
        return "lives"
    try:
        communicator.backends["host/one_shot"].all_reduce(torch.ones(8))
    except SymmlibError as error:
        dist.barrier()
        return f"{type(error).__name__}: {error}"


def ranks_differ(rank, world_size):
    """One rank calls with another length."""
    communicator = HostCommunicator(dist.group.WORLD)
    try:
        communicator.backends["host/one_shot"].all_reduce(torch.ones(8 + rank))
    except SymmlibError as error:
        return type(error).__name__


def one_rank_cannot(rank, world_size):
    """One rank lacks a feature: nobody has it, and all say why in the same words."""
    if rank == 1:
        del os.memfd_create
    names = ["gloo", *HOST, "symm_mem/two_shot", "nccl", "nccl/symmetric"]
    backends = open_backends(names, dist.group.WORLD, "cpu")
    answers = {name: backend.supports(torch.ones(4)).reason for name, backend in backends.items()}
    close_backends(backends)
    return answers


def vllm_missing_on_one_rank(rank, world_size):
    """What the ranks say of vLLM's GPU backends where all have vLLM, and where the first has not."""
    names = ["vllm/custom", "vllm/flashinfer"]
    answers = []
    for missing in (False, True):
        if missing and rank == 0:
            importlib.util.find_spec = lambda name: None
        backends = open_backends(names, dist.group.WORLD, "cpu")
        answers.append({name: backend.supports(torch.ones(4)).reason for name, backend in backends.items()})
        close_backends(backends)
    return answers


def vllm_classes_without_gpus(rank, world_size):
    """What vLLM's own classes answer here when they are made all the same."""
    peers = [kind(dist.group.WORLD, torch.device("cpu")) for kind in (VllmCustom, VllmFlashInfer)]
    answers = {}
    for peer in peers:
        answers[peer.name] = [peer._open().reason, type(peer._communicator).__name__]
        peer.close()
    return answers


def unknown_backend(rank, world_size):
    open_backends(["host/three_shot"], dist.group.WORLD, "cpu")


def routes(rank, world_size):
    """A table with a small, a large and an unavailable route; where tensors of several kinds go."""
    entries = (Route(64, "host/two_shot"), Route(1024, "symm_mem/multimem"), Route(None, "host/one_shot"))
    tables = RoutingTable((Table("cpu", world_size, "bfloat16", "eager", False, "a test", entries),))
    router = Router(dist.group.WORLD, tables, device="cpu")
    tensors = {
        "small": torch.ones(32, dtype=torch.bfloat16),
        "middle": torch.ones(33, dtype=torch.bfloat16),
        "large": torch.ones(513, dtype=torch.bfloat16),
        "strided": torch.ones(64, 64, dtype=torch.bfloat16).t(),
        "no table": torch.ones(32, dtype=torch.float16),
        "integers": torch.ones(32, dtype=torch.int64),
    }
    result = {}
    for name, tensor in tensors.items():
        decision = router.route(tensor)
        total = router.all_reduce(tensor)
        result[name] = [decision.backend, decision.reason, bool((total == world_size).all())]
    invariant = Router(dist.group.WORLD, tables, device="cpu", batch_invariant=True)
    result["invariant"] = [invariant.route(tensors["small"]).backend, invariant.route(tensors["large"]).backend]
    result["counted"] = sorted(one.decision.backend for one in router.trace.served if one.calls)
    result["explained"] = router.explain().served_by.tolist()
    result["refusals"] = router.refusals()
    router.close()
    return result


def tables_differ(rank, world_size):
    entries = (Route(64 + rank, "host/two_shot"), Route(None, "host/one_shot"))
    tables = RoutingTable((Table("cpu", world_size, "bfloat16", "eager", False, "a test", entries),))
    try:
        Router(dist.group.WORLD, tables, device="cpu")
    except SymmlibError as error:
        return f"{type(error).__name__}: {error}"


def _cpu_table(world_size, *entries, dtype="bfloat16"):
    return RoutingTable((Table("cpu", world_size, dtype, "eager", False, "a test", entries),))


def settings_differ(rank, world_size):
    """One rank wants batch invariance."""
    try:
        Router(dist.group.WORLD, _cpu_table(world_size, Route(None, "gloo")), device="cpu", batch_invariant=rank == 1)
    except SymmlibError as error:
        return f"{type(error).__name__}: {error}"


def router_without_a_feature(rank, world_size):
    """One rank lacks what the host backends need: all ranks fall back, for the same reason."""
    if rank == 1:
        del os.memfd_create
    router = Router(dist.group.WORLD, _cpu_table(world_size, Route(None, "host/one_shot")), device="cpu")
    total = router.all_reduce(torch.ones(8, dtype=torch.bfloat16))
    return [router.route(total).backend, router.route(total).reason, float(total[0])]


def router_without_a_fallback(rank, world_size):
    """Nothing but a table's one route, as where ranks share a GPU and NCCL cannot run: what it serves and refuses."""
    table = _cpu_table(world_size, Route(1024, "host/one_shot"), Route(None, "symm_mem/two_shot"))
    router = Router(dist.group.WORLD, table, device="cpu", without={"gloo": "switched off"})
    small, large = torch.ones(8, dtype=torch.bfloat16), torch.ones(4096, dtype=torch.bfloat16)
    refused = []
    for tensor in (large, torch.ones(8), torch.ones(8, 8, dtype=torch.bfloat16).t(), torch.ones(8, dtype=torch.int64)):
        try:
            router.all_reduce(tensor)
        except SymmlibError as error:
            refused.append([str(error), router.supports(tensor).reason])
    answer = {
        "served": [float(router.all_reduce(small)[0]), bool(router.supports(small)), router.route(small).backend],
        "refused": refused,
        "counted": [[one.decision.backend, one.calls] for one in router.trace.served if one.calls],
    }
    router.close()
    return answer


def router_with_a_slow_rank(rank, world_size):
    """The last rank comes late, but within the time-out."""
    if rank == world_size - 1:
        time.sleep(1.0)  # the very lateness that is tested
    router = Router(dist.group.WORLD, _cpu_table(world_size, Route(None, "host/one_shot")), device="cpu", timeout_s=300)
    return float(router.all_reduce(torch.ones(8, dtype=torch.bfloat16))[0])


def router_without_a_rank(rank, world_size):
    """The last rank dies, or lives and makes no router; what the others say, and how long it took."""
    return _missing(rank == world_size - 1, dies=True)


def router_with_a_rank_that_never_comes(rank, world_size):
    return _missing(rank == world_size - 1, dies=False)


def _missing(is_missing, *, dies):
    if is_missing and dies:
        os.kill(os.getpid(), signal.SIGKILL)
    if is_missing:
        time.sleep(6)  # longer than the others' patience
        return "elsewhere"
    started = time.monotonic()
    try:
        Router(dist.group.WORLD, device="cpu", timeout_s=2)
    except SymmlibError as error:
        return {"said": f"{type(error).__name__}: {error}", "seconds": time.monotonic() - started}


def batch_invariance(rank, world_size):
    """A row's sum, alone and among 63 others, by routes of two backends and by one: are the bits the same?"""
    rows = torch.randn(64, 256, generator=torch.Generator().manual_seed(rank)).to(torch.bfloat16)
    table = _cpu_table(world_size, Route(1024, "gloo"), Route(None, "host/two_shot"))
    same = {}
    for invariant in (False, True):
        router = Router(dist.group.WORLD, table, device="cpu", batch_invariant=invariant)
        together = router.all_reduce(rows)
        alone = torch.cat([router.all_reduce(row) for row in rows.split(1)])
        few = torch.cat([router.all_reduce(part) for part in rows.split(5)])
        same[str(invariant)] = bool(torch.equal(together, alone) and torch.equal(together, few))
        router.close()
    return same


def main():
    name, world_size, directory = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    children = []
    for rank in range(world_size):
        child = os.fork()  # torch and the compiled kernels are loaded once for all ranks
        if child == 0:
            run(name, rank, world_size, directory)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


def run(name, rank, world_size, directory):
    try:
        store = f"file://{directory / 'store'}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
        dist.barrier()  # all have found each other before the first one can end
        try:
            answer = find(name)(rank, world_size)
        except SymmlibError as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        (directory / f"{rank}.json").write_text(json.dumps(answer))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)  # without torch's goodbyes, which wait for ranks that a test has killed


def find(name):
    module, _, function = name.rpartition(".")
    return getattr(import_module(module), function) if module else globals()[function]


if __name__ == "__main__":
    main()
