"""Checks that make a measurement count or not, each with its reason.

`run` applies them after every server; an arm that fails one in a cell gives the verdict `invalid` there.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from symmlib.analysis import serving as analysis
from symmlib.serving.arms import Arm
from symmlib.serving.load import SCHEDULE

RATE_TOLERANCE = 0.02
LAG_TOLERANCE_S = 0.25  # in the sending of a request: the client may share its cores with servers
QUEUE_GROWTH = 1.5  # of requests in flight, from a measurement's second quarter to its last; 2.3 where none ever ends
THROTTLED = ".throttled.json"  # ends the name of what was seen of the GPUs beside a result
FALLBACKS = 0.01  # the share of all-reduces that may be served by another backend than intended
GATE_COLUMNS = ["gate", "cell", "status", "reason"]


@dataclass(frozen=True)
class Measurement:
    """One rate on one server: the result file `path` that vLLM wrote, and the server's `trace` directory.

    Beside `path` lie what the client planned (`client`) and, on GPUs, why they were throttled; beside `trace` the
    server's log.
    """

    block: int
    arm: Arm
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

    @property
    def schedule_path(self) -> Path:
        return self.path.with_name(f"{self.path.stem}{SCHEDULE}")

    @cached_property
    def schedule(self) -> dict:
        return json.loads(self.schedule_path.read_text(encoding="utf-8"))

    @cached_property
    def lengths_sha256(self) -> str:
        """Of the prompts and answers as they came."""
        lengths = self.requests[["input_tokens", "output_tokens"]].to_numpy().tolist()
        return hashlib.sha256(json.dumps(lengths).encode()).hexdigest()


@dataclass
class Gates:
    """What was checked: `rows` for gates.csv, and `invalid`: (tp, qps, arm) -> the first reason against it."""

    rows: list[dict] = field(default_factory=list)
    invalid: dict[tuple, str] = field(default_factory=dict)

    def failed(self, block: int, tp: int, qps: Iterable[float], arm: str, reason: str) -> None:
        """The server of `arm` did not run to its end, so nothing that it measured elsewhere counts either."""
        gate, cell = "server ran to its end", f"TP={tp}, {arm}, block {block}"
        self.rows.append({"gate": gate, "cell": cell, "status": "invalid", "reason": reason})
        for rate in qps:
            self.invalid.setdefault((tp, rate, arm), f"{gate}: {reason}")

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows, columns=GATE_COLUMNS)


def check(measurements: Iterable[Measurement], of_cells: tuple | None = None) -> Gates:
    """All gates over what was measured so far: a row where everything in a cell passes, else a row for each failure.

    `of_cells`: those that can be judged, where not all can, as of what another load generator measured.
    """
    gates = Gates()
    cells: dict[tuple, list[Measurement]] = {}
    for measurement in measurements:
        cells.setdefault((measurement.tp, measurement.qps), []).append(measurement)
    for (tp, qps), members in cells.items():
        for gate in of_cells or OF_CELLS:
            _judge(gates, gate.__name__.replace("_", " "), f"TP={tp}, QPS {qps:g}", members, gate(members))
    if of_cells:
        return gates
    servers: dict[tuple, list[Measurement]] = {}
    for measurement in (m for members in cells.values() for m in members):
        servers.setdefault((measurement.tp, measurement.arm), []).append(measurement)
    for (tp, arm), members in servers.items():
        _judge(gates, "intended all-reduce", f"TP={tp}, {arm.name}", members, intended_all_reduce(members))
    return gates


# Each gate takes the measurements of one cell and returns, for each of them, whether it passes and what was seen; an
# empty list where there was nothing to see.


def no_failed_requests(members: list[Measurement]) -> list[tuple[bool, str]]:
    """Every request was answered in full."""
    seen = []
    for member in members:
        failed = member.requests[member.requests["error"] != ""]
        if failed.empty:
            seen.append((True, f"all {len(member.requests)} requests answered"))
        else:
            first = (failed["error"].iloc[0].strip().splitlines() or ["no message"])[-1][:200]
            seen.append((False, f"{len(failed)} of {len(member.requests)} requests failed; the first with: {first}"))
    return seen


def same_schedule(members: list[Measurement]) -> list[tuple[bool, str]]:
    """In a block all arms were sent the same prompts at the same planned times, and answered in the same lengths; the
    next block has another schedule."""
    planned: dict[int, Counter] = {}
    answered: dict[int, Counter] = {}
    for member in members:
        planned.setdefault(member.block, Counter())[member.schedule["schedule_sha256"]] += 1
        answered.setdefault(member.block, Counter())[member.lengths_sha256] += 1
    usual = {block: counted.most_common(1)[0][0] for block, counted in planned.items()}
    if len(set(usual.values())) < len(usual):
        return [(False, "two blocks have the same schedule: they are one repetition, not two")] * len(members)
    return [
        _agrees(planned[member.block], member.schedule["schedule_sha256"], "schedule")
        or _agrees(answered[member.block], member.lengths_sha256, "lengths of prompts and answers")
        or (True, f"schedule {member.schedule['schedule_sha256'][:8]}, lengths {member.lengths_sha256[:8]} in all arms")
        for member in members
    ]


def _agrees(counted: Counter, mine: str, what: str) -> tuple[bool, str] | None:
    """None where all arms agree, or this one is of the majority; else what is wrong with it."""
    if len(counted) == 1 or 2 * counted[mine] > counted.total():
        return None
    return False, f"its {what} (sha256 {mine[:8]}) are not those of the block's other arms"


def sent_on_time(members: list[Measurement]) -> list[tuple[bool, str]]:
    """No request left later than planned by more than `LAG_TOLERANCE_S`, counted from the one most on time."""
    seen = []
    for member in members:
        planned = member.schedule["planned_s"]
        starts = np.sort(member.result["start_times"])
        if len(planned) != len(starts):
            seen.append((False, f"{len(starts)} requests were sent of {len(planned)} that were planned"))
            continue
        lag = starts - np.array(planned)
        worst = float((lag - lag.min()).max())
        seen.append((worst <= LAG_TOLERANCE_S, f"sent at most {worst * 1000:.0f} ms late"))
    return seen


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


def no_growing_queue(members: list[Measurement]) -> list[tuple[bool, str]]:
    """The requests in flight do not grow: a server that cannot keep up has latencies that depend on when one stops.

    Their mean over the last quarter of the sending against that over the second, with room for the noise of a Poisson
    count around the latter. Of few requests a quarter may see none: a server that keeps up has at least as many in
    flight as come in the shortest latency (Little's law).
    """
    seen = []
    for member in members:
        starts, latencies = np.sort(member.result["start_times"]), analysis.latencies_s(member.result)
        ends = np.array(member.result["start_times"]) + latencies
        span = starts[-1] - starts[0]
        before, after = (
            _in_flight(starts, ends, starts[0] + np.array(part) * span) for part in ((0.25, 0.5), (0.75, 1))
        )
        usual = max(before, len(starts) / span * np.min(latencies)) if span else before
        ok = after <= QUEUE_GROWTH * usual + 2 * np.sqrt(usual) + 1
        seen.append((bool(ok), f"{before:.1f} requests in flight in the second quarter, {after:.1f} in the last"))
    return seen


def _in_flight(starts: np.ndarray, ends: np.ndarray, between: np.ndarray) -> float:
    """Requests sent and not yet answered, on average over the time `between`."""
    low, high = between
    if high <= low:
        return 0.0
    shared = np.clip(np.minimum(np.sort(ends), high), low, high).sum() - np.clip(starts, low, high).sum()
    return float(shared / (high - low))


def no_throttling(members: list[Measurement]) -> list[tuple[bool, str]]:
    """No GPU said, while a rate was sent, that heat or its power supply slowed it down; nothing without GPUs."""
    seen = []
    for member in members:
        path = member.path.with_name(f"{member.path.stem}{THROTTLED}")
        if path.is_file():
            reasons = json.loads(path.read_text(encoding="utf-8"))
            seen.append((not reasons, "; ".join(reasons) or "no GPU was slowed down"))
    return seen if len(seen) == len(members) else []


OF_CELLS = (no_failed_requests, same_schedule, sent_on_time, achieved_rate, no_growing_queue, no_throttling)


def intended_all_reduce(members: list[Measurement]) -> list[tuple[bool, str]]:
    """The servers' traces show, on every rank, that the arm's all-reduce served."""
    return [_trace(member) for member in members]


def _trace(member: Measurement) -> tuple[bool, str]:
    if not member.arm.is_plugged:
        return _log(member)
    ranks = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(member.trace.glob("rank-*.json"))]
    if len(ranks) != member.tp:
        return False, f"{len(ranks)} of {member.tp} ranks left a trace: was the plug-in loaded?"
    if not all(sum(call["calls"] for call in rank["calls"]) for rank in ranks):
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
    return True, f"{total // len(ranks)} all-reduces a rank: {shares}{_of_graphs(ranks, total)}"


def _of_graphs(ranks: list[dict], total: int) -> str:
    """How much of it ran in CUDA graphs; empty where there were none, and of traces that did not count replays."""
    graphs, replays = ranks[0].get("graphs", 0), ranks[0].get("replays", 0)
    if not graphs:
        return ""
    replayed = sum(call["replayed"] for rank in ranks for call in rank["calls"])
    return f"; {replayed / total:.0%} of them in {replays} replays of {graphs} CUDA graphs"


def _log(member: Measurement) -> tuple[bool, str]:
    """What vLLM's log says of its own all-reduces, held against what the arm must and must not use."""
    arm = member.arm
    if not arm.must_use and not arm.must_not_use:
        return True, "vLLM's own choice; nothing to prove"
    log = (member.trace.parent / "server.log").read_text(encoding="utf-8", errors="replace")
    said = re.search(r"Using \[(.*?)\] all-reduce backends \(in dispatch order\) for group '?tp:0", log)
    if not said:
        return False, "vLLM's log does not say which all-reduces it uses for the group tp:0"
    names = re.findall(r"\w+", said[1])
    for name in arm.must_use:
        if name not in names:
            return False, f"vLLM does not use {name}, but {', '.join(names) or 'none of its own'}"
    for name in arm.must_not_use:
        if name in names:
            return False, f"vLLM uses {name}, which this arm must not: {', '.join(names)}"
    return True, f"vLLM's log: {', '.join(names) or 'none of its own'}"


def _intended(arm: Arm, call: dict) -> bool:
    """Whether the arm meant this backend: the router means whatever its table says."""
    return call["by_table"] if arm.is_routed else call["backend"] == arm.all_reduce


def _judge(gates: Gates, gate: str, cell: str, members: list[Measurement], seen: list[tuple[bool, str]]) -> None:
    for member, (ok, reason) in zip(members if seen else [], seen, strict=True):
        if not ok:
            arm = "" if gate == "intended all-reduce" else f", {member.arm.name}"
            row = {"gate": gate, "cell": f"{cell}{arm}, block {member.block}", "status": "invalid", "reason": reason}
            if row not in gates.rows:  # one trace stands for all rates of its server
                gates.rows.append(row)
            gates.invalid.setdefault((member.tp, member.qps, member.arm.name), f"{gate}: {reason}")
    if seen and all(ok for ok, _ in seen):
        reasons = list(dict.fromkeys(reason for _, reason in seen))
        said = reasons[0] if len(reasons) == 1 else f"{reasons[0]} … {reasons[-1]}"
        gates.rows.append({"gate": gate, "cell": cell, "status": "valid", "reason": said})
