"""What an all-reduce would take if nothing but latency and bandwidth counted: t = alpha + bytes moved / link.

`bounds` holds measured times against it: how far is each backend from what the machine allows? (The figure `roofline`.)
`time_us` makes plausible curves of it, for the study of routing.

Bytes that each GPU moves per direction for S bytes over n ranks: two-shot and ring 2(n−1)/n·S, as doc/PERFORMANCE.md
of nccl-tests derives it; one-shot (n−1)·S, every other rank's input; multimem (1+1/n)·S, its input into the switch,
which sums, and the sum of its share, which the switch multicasts. A ring takes 2(n−1) hops one after the other.

Ranks that share one GPU send nothing over a link: there its memory takes what all of them together load and store.
Each rank reads its input and writes it where its peers can read it (2·S), and writes its result (S). In between,
one-shot reads the n−1 others' inputs: (n+2)·S. Two-shot reads their parts of its share ((n−1)/n·S), writes that
share's sum (S/n), and reads the other shares' sums ((n−1)/n·S): (5−1/n)·S. Nobody needs to touch more; who copies
in and out by kernels of their own does. Messages that fit the L2 cache hardly meet the memory, so they have no bound.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from symmlib.analysis.fastest import usable
from symmlib.analysis.words import size
from symmlib.backends import ONE_GPU

NVLINK_GBPS = {
    "sm_90": 450.0,
    "sm_100": 900.0,
    "sm_103": 900.0,
}  # NVLink 4, 5 and 5, one direction (NVIDIA's data sheets)

# Start-up costs and reachable shares of the link that make plausible curves; not those of any measured machine.
ALPHA_US = {"one_shot": 6.0, "two_shot": 9.0, "multimem": 10.0, "ring": 4.5}  # ring: a hop; NCCL plans with 4.5 µs
EFFICIENCY = {"one_shot": 0.75, "two_shot": 0.80, "multimem": 0.85, "ring": 0.95}

ALGORITHMS = {
    "symm_mem/one_shot": "one_shot",
    "symm_mem/two_shot": "two_shot",
    "symm_mem/multimem": "multimem",
    "triton/one_shot": "one_shot",
    "triton/two_shot": "two_shot",
    "vllm/symm_mem": "two_shot",
}
NO_ALGORITHM = {
    "vllm/flashinfer": "FlashInfer picks one of several kernels by tables of its own, so that its bytes are not known",
    "router": "the router's algorithm changes with the size",
    "gloo": "gloo goes through the host",
}


@dataclass(frozen=True)
class Link:
    """What bytes have to pass: `name` for people, with its speed; `gbps` in 1e9 bytes per second.

    `l2_bytes`: the cache before it, where ranks share a GPU; 0 where they send over a link (per direction, then).
    """

    name: str
    gbps: float
    l2_bytes: int = 0


# SXM boards; bandwidth by NVIDIA's data sheets. L2: 50 MB by the H100 white paper, where torch's `L2_cache_size` says
# 60 MiB on an H200 of the same chip, and 126.5 MiB on a B200 (pytorch/ao pull request 4002).
MEMORIES = {
    "sm_90": {"H100": (3350.0, 50 << 20), "H200": (4800.0, 60 << 20)},
    "sm_100": {"B200": (8000.0, 253 << 19)},
}


def bytes_moved(algorithm: str, nbytes: float, world_size: int) -> float:
    """Bytes that each rank sends over its link for a message of `nbytes` per rank."""
    factor = {
        "one_shot": world_size - 1,
        "two_shot": 2 * (world_size - 1) / world_size,
        "ring": 2 * (world_size - 1) / world_size,
        "multimem": 1 + 1 / world_size,
    }
    return factor[algorithm] * nbytes


def bytes_through_memory(algorithm: str, nbytes: float, world_size: int) -> float:
    """Bytes that all ranks of one GPU together load and store for a message of `nbytes` per rank."""
    return world_size * {"one_shot": world_size + 2, "two_shot": 5 - 1 / world_size}[algorithm] * nbytes


def time_us(algorithm: str, nbytes: float, world_size: int, link_gbps: float = NVLINK_GBPS["sm_90"]) -> float:
    """The model's time of one all-reduce, in µs; `link_gbps` is 1e9 bytes per second and direction."""
    hops = 2 * (world_size - 1) if algorithm == "ring" else 1
    moved_us = bytes_moved(algorithm, nbytes, world_size) / (link_gbps * EFFICIENCY[algorithm] * 1e3)
    return hops * ALPHA_US[algorithm] + moved_us


def link(device: str, gpus: Iterable[str] = ()) -> Link | None:
    """What limits all-reduces on a `device` as routing tables name it; None where that is not known.

    `gpus`: names as the driver gives them. They tell the memory of a GPU that ranks share; without a name that is
    known, it is the slowest of the generation.
    """
    generation = device.removesuffix(ONE_GPU)
    if device == generation:
        gbps = NVLINK_GBPS.get(device)
        return Link(f"NVLink {4 if device == 'sm_90' else 5} ({gbps:.0f} GB/s each way)", gbps) if gbps else None
    memories = MEMORIES.get(generation)
    if not memories:
        return None
    known = [name for name in memories if any(re.search(rf"\b{name}\b", gpu) for gpu in gpus)]
    name = min(known or memories, key=memories.get)
    gbps, l2_bytes = memories[name]
    return Link(f"the memory of one {name} ({gbps:.0f} GB/s)", gbps, l2_bytes)


def algorithm_of(backend: str, nbytes: int, world_size: int, multicast: bool = False) -> tuple[str, str]:
    """(algorithm, "") of `backend` for such a message, or ("", why there is none).

    vLLM's custom all-reduce changes from one to two stages where its csrc/custom_all_reduce.cuh does. NCCL is taken to
    let the NVLink switch sum (NVLS) where there is `multicast`, and to run a ring elsewhere; its kernels for symmetric
    windows likewise, but two-shot.
    """
    if backend == "vllm/custom":
        one_stage = world_size == 2 or nbytes < (512 << 10 if world_size <= 4 else 256 << 10)
        return ("one_shot" if one_stage else "two_shot"), ""
    if backend in ("nccl", "nccl/symmetric"):
        return "multimem" if multicast else "ring" if backend == "nccl" else "two_shot", ""
    return ALGORITHMS.get(backend, ""), "" if backend in ALGORITHMS else NO_ALGORITHM.get(backend, "no formula for it")


def bounds(summary: pd.DataFrame, gpus: Iterable[str] = ()) -> pd.DataFrame:
    """The rows of `summary` that are `fastest.usable`, each with its bound and how far its time is from it.

    Adds `algorithm`, `bound_us`, `share` (bound over time: 1 is at the limit), `alpha_us`, `link` (in words), and
    `why_not` where there is no bound. `gpus` as for `link`.

    alpha is what the quickest backend of the setting needs for the smallest message that it was measured with, less
    those few bytes: the shortest start that anybody had on this machine, the same for all.
    """
    rows = usable(summary)
    devices = rows.get("device", pd.Series("", index=rows.index)).fillna("").astype(str)
    multicast = rows.get("multicast", pd.Series(False, index=rows.index)).astype(str) == "True"
    found = [_transfer(*point, list(gpus)) for point in zip(
        rows.backend, rows.bytes, rows.world_size, devices, multicast, strict=True
    )]  # fmt: skip
    columns = ["algorithm", "transfer_us", "link", "why_not"]
    rows = rows.assign(**pd.DataFrame(found, columns=columns, index=rows.index), device=devices)
    setting = rows.groupby(["device", "world_size", "dtype", "mode"]).ngroup()
    smallest = rows.bytes == rows.bytes.groupby([setting, rows.backend]).transform("min")
    starts = (rows.median_us - rows.transfer_us).where(smallest)
    alpha = starts.groupby(setting).transform("min").clip(lower=0)
    bound = (alpha + rows.transfer_us).where(rows.why_not == "")
    return rows.assign(alpha_us=alpha, bound_us=bound, share=bound / rows.median_us).drop(columns="transfer_us")


def _transfer(backend: str, nbytes: int, world_size: int, device: str, multicast: bool, gpus: list[str]) -> tuple:
    """(algorithm, µs that its bytes take, link, why there is no bound); the µs are NaN where they are not known."""
    passed = link(device, gpus)
    if not passed:
        cpu = "on the CPU ranks meet in caches and in memory, which have no one bandwidth"
        return "", float("nan"), "", cpu if device == "cpu" else f"the link of {device or 'this machine'} is not known"
    algorithm, why_not = algorithm_of(backend, nbytes, world_size, multicast)
    count = bytes_through_memory if passed.l2_bytes else bytes_moved
    if passed.l2_bytes and algorithm in ("ring", "multimem"):
        why_not = f"{algorithm} does not run where ranks share a GPU"
    if why_not:
        return algorithm, float("nan"), passed.name, why_not
    moved_us = count(algorithm, nbytes, world_size) / passed.gbps / 1e3
    if 3 * world_size * nbytes <= passed.l2_bytes:  # input, staged copy and result of every rank
        why_not = f"all ranks' buffers fit the L2 cache ({size(passed.l2_bytes)})"
    return algorithm, moved_us, passed.name, why_not
