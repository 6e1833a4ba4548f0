"""Print the tables of docs/nvlink.md from the committed samples: `.venv/bin/python scripts/nvlink_tables.py`.

tests/test_published.py holds the page to what this prints. No GPU is needed.
"""

import pandas as pd

from symmlib.allreduce import read_results
from symmlib.analysis.allreduce import against
from symmlib.analysis.alpha_beta import NVLINK_GBPS, algorithm_of, bytes_moved
from symmlib.routing import Route, RoutingTable, Table, costs
from symmlib.runs import PROJECT
from symmlib.sizes import format_size

PUBLISHED = PROJECT / "reports" / "published"
LINKED, SHARED = PUBLISHED / "2026-11-24-h200-x2-nvlink", PUBLISHED / "2026-11-24-h200-one-gpu"
RANKS = 2
BACKENDS = [
    "triton/one_shot", "triton/two_shot", "vllm/symm_mem", "symm_mem/one_shot", "symm_mem/two_shot", "nccl",
    "nccl/symmetric",
]  # fmt: skip
SIZES = [1 << 10, 16 << 10, 128 << 10, 1 << 20, 8 << 20, 32 << 20, 64 << 20]
RATIO_SIZES = [16 << 10, 128 << 10, 1 << 20, 8 << 20, 32 << 20]
EVERYWHERE, CUSTOM_ENDS, TENSORRT_ENDS = 0, 8 << 20, 16 << 20
# What is chosen, by whom, and from which size on: below, their choice was not measured here.
CHOICES = [
    ("`triton/two_shot` always", "triton/two_shot", EVERYWHERE),
    ("vLLM's way of using symmetric memory always", "vllm/symm_mem", EVERYWHERE),
    ("`nccl/symmetric` always", "nccl/symmetric", EVERYWHERE),
    ("NCCL always", "nccl", EVERYWHERE),
    ("vLLM's table with multicast, from 8 MiB: its way of using symmetric memory", "vllm/symm_mem", CUSTOM_ENDS),
    ("vLLM's table without multicast, from 8 MiB: NCCL", "nccl", CUSTOM_ENDS),
    ("TensorRT-LLM's table, from 16 MiB: NCCL", "nccl", TENSORRT_ENDS),
]


def main() -> None:
    linked, shared = read_results([LINKED]), read_results([SHARED])
    show(["bytes", "limit, µs", *(f"`{name}`" for name in BACKENDS)], limits(linked.summary))
    held_out = pd.read_csv(LINKED / "results" / "regret.csv").regret
    rows = regrets(linked.timed)
    rows.insert(1, ["the same, held-out sizes", str(len(held_out)), *map(percent, held_out.quantile([0.5, 0.95, 1]))])
    show(["choice", "sizes", "median regret", "95th percentile", "largest"], rows)
    show(["bytes", "ours", "vLLM's way / ours", "95 %"], ratios(linked.timed))
    show(["bytes", "one shared GPU", "two linked GPUs", "the lab is high by"], beside(shared.timed, linked.timed))


def limits(summary: pd.DataFrame) -> list[list[str]]:
    """By size: the time that the link alone would take, and each backend's time with the share that this is of it.

    At 2 ranks every algorithm sends the message once, so that one limit holds for all.
    """
    medians = summary[summary.status == "ok"].pivot_table(index="bytes", columns="backend", values="median_us")
    rows = []
    for size in SIZES:
        moved = {bytes_moved(algorithm_of(name, size, RANKS)[0], size, RANKS) for name in BACKENDS}
        (limit_us,) = (nbytes / NVLINK_GBPS["sm_90"] / 1e3 for nbytes in moved)
        times = medians.loc[size].reindex(BACKENDS)
        cells = ["–" if pd.isna(us) else f"{microseconds(us)}, {percent(limit_us / us)}" for us in times]
        rows.append([format_size(size), f"{limit_us:.2g}" if limit_us < 10 else microseconds(limit_us), *cells])
    return rows


def ratios(timed: pd.DataFrame) -> list[list[str]]:
    """vLLM's way over the best of ours, which is named, with its 95 % interval over launches."""
    found = against(timed).set_index("bytes")
    rows = [found.loc[size] for size in RATIO_SIZES]
    return [
        [format_size(row.name), f"`{row.ours}`", f"{row.ratio:.3f}", f"{row.ci_low:.3f} to {row.ci_high:.3f}"]
        for row in rows
    ]


def regrets(timed: pd.DataFrame) -> list[list[str]]:
    builtin = RoutingTable.builtin("sm_90")
    (table,) = builtin.tables
    judged = [("the built-in table", builtin, EVERYWHERE)]
    for name, backend, start in CHOICES:
        always = Table(*table.key, "one backend", (Route(None, backend),))
        judged.append((name, RoutingTable((always,)), start))
    rows = []
    for name, one, start in judged:
        (found,) = costs({name: one}, timed[timed.bytes >= start]).itertuples()
        shares = found.regret_p50, found.regret_p95, found.regret_max
        rows.append([name, str(found.sizes), *map(percent, shares)])
    return rows


def beside(shared: pd.DataFrame, linked: pd.DataFrame) -> list[list[str]]:
    """vLLM's way over the best of ours, with 95 % intervals, at the sizes that both runs measured."""
    over = [against(one[one.world_size == RANKS]).set_index("bytes") for one in (shared, linked)]
    rows = []
    for size in over[0].index:
        found = [one.loc[size] for one in over]
        cells = [f"{one.ratio:.2f} ({one.ci_low:.2f} to {one.ci_high:.2f})" for one in found]
        rows.append([format_size(size), *cells, f"{100 * (found[0].ratio / found[1].ratio - 1):.0f} %"])
    return rows


def microseconds(time_us: float) -> str:
    return f"{time_us:.1f}" if time_us < 100 else f"{time_us:.0f}"


def percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def show(columns: list[str], rows: list[list[str]]) -> None:
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print()


if __name__ == "__main__":
    main()
