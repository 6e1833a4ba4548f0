"""Fresh torchrun launches of a plan, one after the other, until as many as planned have ended well.

Called by `measure`. A backend that ends a launch is named in the launch's checks and left out of those that follow.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from symmlib import patience
from symmlib.allreduce.plan import AllReducePlan
from symmlib.allreduce.samples import CLOSING, OPENING, LaunchFiles
from symmlib.backends import ONE_GPU
from symmlib.errors import SymmlibError
from symmlib.live import Status, live
from symmlib.mps import SHARED_GPU, mps
from symmlib.processes import ProcessGroup
from symmlib.progress import duration, say
from symmlib.provenance import routed_device
from symmlib.runs import write_text
from symmlib.sizes import format_size
from symmlib.torchrun import command

POLL_S = 0.2
# For ranks to start, and then to open their backends: imports and compilers on a crowded machine, or from a cold disk.
START_S = 300


@dataclass
class Launches:
    """The launches of one measurement, in `raw`; they count on from `number`, whatever plan they are of.

    `worker` is the module that every rank runs; a launch whose backends are open and that makes no progress for
    `stall_s` seconds is ended.
    """

    raw: Path
    worker: str
    stall_s: float
    number: int = 0

    def run(self, plan: AllReducePlan, left_out: list[str]) -> None:
        """Launch `plan` (of one world size) without the backends in `left_out`; one that ends a launch joins them.

        Raises `SymmlibError`, with the end of its log, for a launch that ended while no backend was running.
        """
        with live() as status:
            self._run(plan, left_out, status)

    def _run(self, plan: AllReducePlan, left_out: list[str], status: Status) -> None:
        path = write_text(self.raw / f"plan-{self.number + 1}.json", plan.dumps())
        done, seconds = 0, None
        while done < plan.launches and len(left_out) < len(plan.backends):
            self.number += 1
            place = f"launch {done + 1} of {plan.launches} on {plan.world_size} ranks"
            say(place + (f" (about {duration(seconds)} each)" if seconds else ""))
            started = time.monotonic()
            ends = started + seconds * (plan.launches - done) if seconds else None
            files = LaunchFiles(self.raw, self.number)
            arguments = [str(path), str(self.number), str(self.raw), "--without", ",".join(left_out)]
            shown = _Shown(status, place, plan.sizes, ends)
            shown.at("ranks start")
            ended, log_tail = torchrun(
                self.worker, plan.world_size, files, arguments, stall_s=self.stall_s, one_gpu=plan.one_gpu, tell=shown
            )
            now = files.reported()
            if not ended or now.get("doing") == CLOSING:  # what dies there has measured everything
                if ended:
                    say(f"launch {self.number} {ended} after its last measurement; its log is {files.log}")
                done, seconds = done + 1, time.monotonic() - started
                files.progress.unlink(missing_ok=True)
                continue
            if "backend" not in now:
                doing = now.get("doing", "starting")
                raise SymmlibError(f"launch {self.number} {ended} while {doing}. The end of {files.log}:\n{log_tail}")
            place = f"{now['doing']} {now['backend']} at {format_size(now['bytes'])}"
            reason = f"launch {self.number} {ended} while {place}"
            say(f"{reason}. Going on without {now['backend']}; the log is {files.log}")
            left_out.append(now["backend"])
            files.append_checks(
                [
                    failed_check(plan, self.number, now["backend"], size, f"{reason}; see {files.log.name}")
                    for size in plan.sizes[plan.sizes.index(now["bytes"]) :]
                ]
            )


@dataclass(frozen=True)
class _Shown:
    """Where a person sees which size the launch at `place` is at, and what is left until the moment `ends` (monotonic,
    s; None while nobody knows)."""

    status: Status
    place: str
    sizes: tuple[int, ...]
    ends: float | None

    def __call__(self, now: dict, seen: dict) -> None:
        if now.get("bytes") is not None:
            self.at(f"{format_size(now['bytes'])}, size {self.sizes.index(now['bytes']) + 1} of {len(self.sizes)}")

    def at(self, position: str) -> None:
        self.status.update(f"{self.place}: {position}", self.ends and self.ends - time.monotonic())


def torchrun(
    worker: str,
    world_size: int,
    files: LaunchFiles,
    arguments: list[str],
    *,
    stall_s: float,
    one_gpu: bool = False,
    tell: Callable[[dict, dict], None] = lambda now, seen: None,
) -> tuple[str, str]:
    """One launch of the module `worker` on `world_size` ranks, to its end.

    Returns what became of it ('' if all went well) and the end of its log. It is ended where `files.reported` stays the
    same for `stall_s` seconds, its ranks' stacks then being in the log; `tell(now, seen)` is called with what is
    reported and what was before, at each change.
    """
    with contextlib.ExitStack() as stack:
        argv, environment = stack.enter_context(command(world_size))
        if one_gpu:
            # A new one for each launch: a rank that dies in a kernel leaves its MPS in a state that nobody knows.
            environment |= SHARED_GPU | stack.enter_context(mps(files.log.with_suffix(".mps")))
        argv += ["-m", worker, *arguments]
        group = stack.enter_context(ProcessGroup(argv, log=files.log, env=environment))
        seen, moved = {}, time.monotonic()
        while group.poll() is None:
            now = files.reported()
            if now != seen:
                tell(now, seen)
                seen, moved = now, time.monotonic()
            starting = seen.get("doing", OPENING) == OPENING
            limit_s = max(stall_s, patience.seconds(START_S)) if starting else stall_s
            if time.monotonic() - moved > limit_s:
                halted = group.dump_stacks()
                return f"made no progress for {limit_s:g} s{halted}{_first_error(group)}", group.tail(60)
            time.sleep(POLL_S)
        status = group.poll()
        return f"ended with exit status {status}{_first_error(group)}" if status else "", group.tail()


def device_key(plan: AllReducePlan) -> str:
    """The column `device` of what `plan` measures here: "cpu", "sm_90", or "sm_90/one-gpu" where ranks share a GPU."""
    return "cpu" if plan.device == "cpu" else routed_device() + (ONE_GPU if plan.one_gpu else "")


def failed_check(plan: AllReducePlan, launch: int, backend: str, size: int, reason: str) -> dict:
    """The row (`samples.CHECK_COLUMNS`) of a point of `plan`, of one world size, that has no time for `reason`."""
    return {
        "launch": launch,
        "backend": backend,
        "world_size": plan.world_size,
        "dtype": plan.dtype,
        "mode": plan.mode,
        "bytes": size,
        "device": device_key(plan),
        "multicast": False,
        "status": "failed",
        "reason": reason,
    }


def _first_error(group: ProcessGroup) -> str:
    """The log's first error in parentheses, such as to be appended to what became of a launch; else empty."""
    return f" ({found})" if (found := group.first_error()) else ""
