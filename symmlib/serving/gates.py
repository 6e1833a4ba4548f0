"""Checks that make a measurement count or not, each with its reason.

`run` applies them after every server; an arm that fails one in a cell gives the verdict `invalid` there.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from symmlib.analysis import serving as analysis
from symmlib.serving.experiment import VLLM_DEFAULT

RATE_TOLERANCE = 0.02
SCHEDULE_TOLERANCE_S = 0.25  # between arms, in the sending of one request: the client may share its cores with servers
FALLBACKS = 0.01  # the share of all-reduces that may be served by another backend than intended
GATE_COLUMNS = ["gate", "cell", "status", "reason"]


@dataclass(frozen=True)
class Measurement:
    """One rate on one server: the result file `path` that vLLM wrote, and the server's `trace` directory."""

    block: int
    arm: str
    tp: int
    qps: float
    path: Path
    trace: Path

    @cached_property
    def result(self) -> dict:
        return json.loads(self.path.read_text(encoding="utf-8"))

    @cached_property
    def requests(self) -> pd.DataFrame:
        return analysis.requests(self.result)


@dataclass
class Gates:
    """What was checked: `rows` for gates.csv, and `invalid`: (tp, qps, arm) -> the first reason against it."""

    rows: list[dict] = field(default_factory=list)
    invalid: dict[tuple, str] = field(default_factory=dict)

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows, columns=GATE_COLUMNS)


def check(measurements: Iterable[Measurement]) -> Gates:
    """All gates over what was measured so far: a row where everything in a cell passes, else a row for each failure."""
    gates = Gates()
    cells: dict[tuple, list[Measurement]] = {}
    for measurement in measurements:
        cells.setdefault((measurement.tp, measurement.qps), []).append(measurement)
    for (tp, qps), members in cells.items():
        for gate in (no_failed_requests, same_schedule, achieved_rate):
            _judge(gates, gate.__name__.replace("_", " "), f"TP={tp}, QPS {qps:g}", members, gate(members))
    servers = {(m.tp, m.arm): [] for members in cells.values() for m in members}
    for measurement in (m for members in cells.values() for m in members):
        servers[measurement.tp, measurement.arm].append(measurement)
    for (tp, arm), members in servers.items():
        _judge(gates, "intended all-reduce", f"TP={tp}, {arm}", members, intended_all_reduce(members))
    return gates


# Each gate takes the measurements of one cell and returns, for each of them, whether it passes and what was seen.


def no_failed_requests(members: list[Measurement]) -> list[tuple[bool, str]]:
    """Every request was answered in full."""
    seen = []
    for member in members:
        failed = member.requests[member.requests["error"] != ""]
        if failed.empty:
            seen.append((True, f"all {len(member.requests)} requests answered"))
        else:
            first = str(failed["error"].iloc[0]).strip().splitlines()[-1][:200]
            seen.append((False, f"{len(failed)} of {len(member.requests)} requests failed; the first with: {first}"))
    return seen


def same_schedule(members: list[Measurement]) -> list[tuple[bool, str]]:
    """Prompts and answers have the lengths, and were sent at the times, that most of the block's arms agree on."""
    blocks: dict[int, list[pd.DataFrame]] = {}
    for member in members:
        blocks.setdefault(member.block, []).append(member.requests)
    return [_on_schedule(member.requests, blocks[member.block]) for member in members]


def _on_schedule(ours: pd.DataFrame, arms: list[pd.DataFrame]) -> tuple[bool, str]:
    """Compare with the median over arms: one arm that stumbled is found out, and does not incriminate the others."""
    count = int(np.median([len(arm) for arm in arms]))
    if len(ours) != count:
        return False, f"{len(ours)} requests here, {count} in the block's other arms"
    alike = [arm for arm in arms if len(arm) == count]
    lengths = ["input_tokens", "output_tokens"]
    usual = np.median([arm[lengths] for arm in alike], axis=0)
    different = int((ours[lengths].to_numpy() != usual).any(axis=1).sum())
    # From the median of each arm's own times, so that one late request does not shift all others of its arm.
    sent = np.array([arm["start_s"] - arm["start_s"].median() for arm in alike])
    apart_s = float(np.abs(ours["start_s"] - ours["start_s"].median() - np.median(sent, axis=0)).max())
    return (
        not different and apart_s <= SCHEDULE_TOLERANCE_S,
        f"{different} requests differ in length; sent at most {apart_s * 1000:.0f} ms off the block's schedule",
    )


def achieved_rate(members: list[Measurement]) -> list[tuple[bool, str]]:
    """Requests were sent at the rate asked for, within 2 %.

    vLLM stretches each schedule so that the last of n requests is due n/rate seconds after the start; requests divided
    by the whole duration would count the answer to the last one too, and call every short measurement slow.
    """
    seen = []
    for member in members:
        starts = np.array(member.result["start_times"])
        ends = starts + analysis.latencies_s(member.result)
        began = ends.max() - member.result["duration"]
        rate = len(starts) / (starts.max() - began)
        ok = abs(rate / member.qps - 1) <= RATE_TOLERANCE
        seen.append((ok, f"sent {rate:.2f} requests/s where {member.qps:g} were asked for"))
    return seen


def intended_all_reduce(members: list[Measurement]) -> list[tuple[bool, str]]:
    """The servers' traces show, on every rank, that the arm's all-reduce served."""
    return [_trace(member) for member in members]


def _trace(member: Measurement) -> tuple[bool, str]:
    if member.arm == VLLM_DEFAULT:
        return True, "vLLM's own choice; nothing to prove"
    ranks = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(member.trace.glob("rank-*.json"))]
    if len(ranks) != member.tp:
        return False, f"{len(ranks)} of {member.tp} ranks left a trace: was the plug-in loaded?"
    if not all(rank["calls"] for rank in ranks):
        return False, "a rank counted no all-reduce at all"
    calls = [call for rank in ranks for call in rank["calls"]]
    served, fallbacks = Counter(), Counter()
    for call in calls:
        served[call["backend"]] += call["calls"]
        if not _intended(member.arm, call):
            fallbacks[f"{call['backend']}, because {call['reason']}"] += call["calls"]
    total = served.total()
    if fallbacks.total() > FALLBACKS * total:
        most = fallbacks.most_common(1)[0][0]
        return False, f"{fallbacks.total() / total:.1%} of the all-reduces were served otherwise, most by {most}"
    shares = ", ".join(f"{backend} {count / total:.1%}" for backend, count in served.most_common())
    return True, f"{total // len(ranks)} all-reduces a rank: {shares}"


def _intended(arm: str, call: dict) -> bool:
    """Whether the arm meant this backend: the router means whatever its table says."""
    return call["by_table"] if arm == "router" else call["backend"] == arm


def _judge(gates: Gates, gate: str, cell: str, members: list[Measurement], seen: list[tuple[bool, str]]) -> None:
    for member, (ok, reason) in zip(members, seen, strict=True):
        if not ok:
            arm = "" if cell.endswith(member.arm) else f", {member.arm}"
            row = {"gate": gate, "cell": f"{cell}{arm}, block {member.block}", "status": "invalid", "reason": reason}
            if row not in gates.rows:  # one trace stands for all rates of its server
                gates.rows.append(row)
            gates.invalid.setdefault((member.tp, member.qps, member.arm), f"{gate}: {reason}")
    if all(ok for ok, _ in seen):
        reasons = list(dict.fromkeys(reason for _, reason in seen))
        said = reasons[0] if len(reasons) == 1 else f"{reasons[0]} … {reasons[-1]}"
        gates.rows.append({"gate": gate, "cell": cell, "status": "valid", "reason": said})
