"""What an all-reduce would take if nothing but latency and bandwidth counted: t = alpha + bytes moved / link.

Bytes that each GPU moves per direction for S bytes over N ranks: one-shot (N−1)·S, two-shot and ring 2(N−1)/N·S,
multimem (1+1/N)·S, where the switch sums and multicasts. A ring takes 2(N−1) hops one after the other.
"""

NVLINK_GBPS = {
    "sm_90": 450.0,
    "sm_100": 900.0,
}  # NVLink 4 and 5, one direction (NVIDIA's data sheets)

# Start-up costs and reachable shares of the link that make plausible curves; not those of any measured machine.
ALPHA_US = {"one_shot": 6.0, "two_shot": 9.0, "multimem": 10.0, "ring": 4.5}  # ring: a hop; NCCL plans with 4.5 µs
EFFICIENCY = {"one_shot": 0.75, "two_shot": 0.80, "multimem": 0.85, "ring": 0.95}


def bytes_moved(algorithm: str, nbytes: float, world_size: int) -> float:
    """Bytes that each rank sends over its link for a message of `nbytes` per rank."""
    factor = {
        "one_shot": world_size - 1,
        "two_shot": 2 * (world_size - 1) / world_size,
        "ring": 2 * (world_size - 1) / world_size,
        "multimem": 1 + 1 / world_size,
    }
    return factor[algorithm] * nbytes


def time_us(algorithm: str, nbytes: float, world_size: int, link_gbps: float = NVLINK_GBPS["sm_90"]) -> float:
    """The model's time of one all-reduce, in µs; `link_gbps` is 1e9 bytes per second and direction."""
    hops = 2 * (world_size - 1) if algorithm == "ring" else 1
    moved_us = bytes_moved(algorithm, nbytes, world_size) / (link_gbps * EFFICIENCY[algorithm] * 1e3)
    return hops * ALPHA_US[algorithm] + moved_us
