"""The micro-benchmark of all-reduces: plan it, measure it in fresh `torchrun` launches, read the summary.

How exact they are is asked apart from how fast, by `numerics.measure_numerics`.

    plan = AllReducePlan(world_size=2, backends="gloo,host/one_shot", sizes="1KiB:16MiB:x4")
    summary = measure(plan, out=Path("reports/here"))

A time is that of one all-reduce, from a common start of all ranks to the return of the last one; on GPUs it is the mean
over several back to back, in a CUDA graph or called. `algbw_gbps` is bytes per rank over that time, `busbw_gbps` is
algbw · 2(n−1)/n, as nccl-tests defines them, in 1e9 bytes per second.
"""

from symmlib.allreduce.measure import measure
from symmlib.allreduce.plan import AllReducePlan
from symmlib.allreduce.results import read_results, results_for

__all__ = ["AllReducePlan", "measure", "read_results", "results_for"]
