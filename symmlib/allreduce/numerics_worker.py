"""One rank that sums the same inputs again and again, and special values; rank 0 judges what all of them found.

`numerics.py` starts it as `torchrun -m symmlib.allreduce.numerics_worker PLAN.json LAUNCH DIRECTORY [--without NAMES]`.
Rows go to DIRECTORY/launch-LAUNCH.rows.jsonl as they come, each with the `table` that it belongs to.
"""

import argparse
import faulthandler
import hashlib
import json
import os
import signal
import traceback
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from symmlib import patience
from symmlib.allreduce.cases import ANY_NAN, INPUTS, as_text, cases, inputs
from symmlib.allreduce.launches import device_key
from symmlib.allreduce.numerics import NumericsPlan
from symmlib.allreduce.samples import CLOSING, OPENING, LaunchFiles
from symmlib.analysis.numerics import Found, histogram_of, judge, promised, special_sums
from symmlib.communicators.catalog import close_backends, open_backends
from symmlib.torchrun import join

TIMEOUT = timedelta(seconds=patience.seconds(60))
HOST_TIMEOUT_S = patience.seconds(30)
# Of messages of special values: once in whole vectors with a rest, once in single elements only.
SPECIAL_NUMEL = (1032, 24)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("plan", type=Path)
    parser.add_argument("launch", type=int)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--without", default="", help="backends of the plan to leave out, separated by commas")
    arguments = parser.parse_args()
    faulthandler.register(signal.SIGUSR1)  # `processes.dump_stacks` asks a launch that hangs where it does
    plan = NumericsPlan.loads(arguments.plan.read_text())
    names = [name for name in plan.backends if name not in arguments.without.split(",")]
    torch.set_num_threads(1)
    join(TIMEOUT)
    try:
        Rank(plan, names, LaunchFiles(arguments.directory, arguments.launch)).run()
    finally:
        dist.destroy_process_group()


class Rank:
    """What a rank holds while it measures. Every method is a collective unless it says otherwise."""

    def __init__(self, plan: NumericsPlan, names: list[str], files: LaunchFiles):
        self.plan, self.names, self.files = plan, names, files
        self.rows = files.log.with_suffix(".rows.jsonl")
        self.rank = dist.get_rank()
        self.device = torch.device("cpu")
        if plan.device == "cuda":
            self.device = torch.device("cuda", 0 if plan.one_gpu else int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(self.device)
        self.control = dist.new_group(backend="gloo")  # a backend that failed may have left the measured group askew
        self.where = {"world_size": plan.world_size, "device": device_key(plan) if self.rank == 0 else ""}

    def run(self) -> None:
        self._report(doing=OPENING)
        backends = open_backends(self.names, dist.group.WORLD, self.device, host_timeout_s=HOST_TIMEOUT_S)
        for name, backend in backends.items():
            for dtype in self.plan.dtypes:
                self._report(doing="summing by", backend=name, dtype=dtype)
                try:
                    rows = self._measure(name, backend, dtype)
                except BackendFailed as error:
                    self._write([self._row("summary", name, dtype, status="failed", reason=str(error))])
                    break  # its ranks may be out of step for good
                self._write(rows)
        self._report(doing=CLOSING)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        dist.barrier(group=self.control)
        close_backends(backends)

    def _measure(self, name: str, backend, dtype: str) -> list[dict]:
        refused = self._gather(backend.supports(self._tensor(np.zeros(self.plan.numel), dtype)).reason)
        if reasons := [reason for reason in refused if reason]:
            return [self._row("summary", name, dtype, status="unavailable", reason=reasons[0])]
        rows = []
        for kind in INPUTS:
            shape = {"world_size": self.plan.world_size, "numel": self.plan.numel, "seed": self.plan.seed}
            parts = inputs(kind, dtype, **shape)
            found = self._found(backend, self._tensor(parts[self.rank], dtype))
            if self.rank == 0:
                rows.append(self._row("summary", name, dtype, inputs=kind, **judge(found, parts, dtype)))
                rows += [
                    self._row("histogram", name, dtype, inputs=kind, **row) for row in histogram_of(found, parts, dtype)
                ]
        return rows + self._special(name, backend, dtype)

    def _found(self, backend, tensor: torch.Tensor) -> Found:
        """What all ranks get from repeated calls, in place and out of place in turn; both must give the same bits."""

        def call(number: int) -> torch.Tensor:
            message = tensor.clone()
            out = message if number % 2 else torch.full_like(message, torch.nan)
            backend.all_reduce(message, out=out)
            return out

        digests, values = self._attempt(lambda: _calls(call, self.plan.repeats))
        gathered = self._gather((digests, values))
        return Found(
            [one for one, _ in gathered], {name: value for _, found in gathered for name, value in found.items()}
        )

    def _special(self, name: str, backend, dtype: str) -> list[dict]:
        """Rows of what special values become, on all ranks, in every place of a message."""
        asked = cases(dtype, self.plan.world_size)
        parts = np.array([case.values for case in asked]).T  # ranks x cases
        got: list[set[str]] = [set() for _ in asked]
        for numel in SPECIAL_NUMEL:
            mine = self._tensor(np.resize(parts[self.rank], numel), dtype)
            result = self._attempt(lambda mine=mine: backend.all_reduce(mine).cpu())
            for texts in self._gather([_in_words(result[at :: len(asked)], dtype) for at in range(len(asked))]):
                for found, more in zip(got, texts, strict=True):
                    found |= more
        rows = []
        for case, expected, found in zip(asked, special_sums(parts, dtype), got, strict=True):
            wanted = as_text(expected, dtype)
            as_wanted = all(one == wanted or wanted == ANY_NAN and one.startswith("NaN") for one in found)
            known = {"case": case.name, "expected": wanted, "got": ", ".join(sorted(found))}
            rows.append(self._row("special", name, dtype, **known, promised=promised(name), ok=as_wanted))
        return rows

    def _attempt(self, action):
        """The result of `action`, unless it raises on any rank: then `BackendFailed`, on all of them."""
        result, reason = None, None
        try:
            result = action()
        except Exception as error:  # a measured backend may raise anything; its row says what it was
            reason = f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), 'no message')}"
            traceback.print_exc()
        reasons = [f"rank {rank}: {one}" for rank, one in enumerate(self._gather(reason)) if one is not None]
        if reasons:
            raise BackendFailed(reasons[0])
        return result

    def _tensor(self, values: np.ndarray, dtype: str) -> torch.Tensor:
        """`values`, all of them numbers of `dtype`, on this rank's device; not a collective."""
        return torch.tensor(values).to(getattr(torch, dtype)).to(self.device)

    def _gather(self, value) -> list:
        """`value` of every rank, in rank order."""
        values = [None] * self.plan.world_size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def _row(self, table: str, backend: str, dtype: str, **known) -> dict:
        """Not a collective."""
        return {"table": table, "backend": backend, "dtype": dtype, **self.where, **known}

    def _write(self, rows: list[dict]) -> None:
        """Append rows: done by rank 0; not a collective."""
        if self.rank == 0:
            with self.rows.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)

    def _report(self, **now) -> None:
        """Say what is running: done by rank 0; not a collective."""
        if self.rank == 0:
            self.files.report(**now)


class BackendFailed(Exception):
    """A backend raised on some rank; says which, and what."""


def _calls(call, repeats: int) -> tuple[list[str], dict[str, np.ndarray]]:
    """Digests of the results of `call(1)`, `call(2)` and so on, and each distinct result as float64."""
    digests, values = [], {}
    for number in range(1, repeats + 1):
        result = call(number).cpu()
        digests.append(hashlib.blake2b(result.view(torch.uint8).numpy().data, digest_size=16).hexdigest())
        if digests[-1] not in values:
            values[digests[-1]] = result.double().numpy()
    return digests, values


def _in_words(result: torch.Tensor, dtype: str) -> set[str]:
    """The distinct values of `result`; NaNs with their bits."""
    unsigned = {2: torch.uint16, 4: torch.uint32}[result.element_size()]
    bits = result.contiguous().view(unsigned).numpy()
    return {
        f"NaN {int(code):#x}" if np.isnan(value) else as_text(value, dtype)
        for value, code in zip(result.double().numpy(), bits, strict=True)
    }


if __name__ == "__main__":
    main()
