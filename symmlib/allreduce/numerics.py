"""How exact all-reduces are: real ranks sum the same inputs again and again, and the bits are held to float64.

    found = measure_numerics(Path("reports/here"), world_size=4)
    found.summary, found.histogram, found.special

Called by `symmlib numerics`, by the notebook 05_accuracy and by tests. The ranks are in `numerics_worker`, what they
sum in `cases`, what is made of it in `analysis.numerics`.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from symmlib import patience
from symmlib.allreduce.cases import INPUTS, inputs
from symmlib.allreduce.launches import device_key, torchrun
from symmlib.allreduce.measure import STALL_S, alone, require_room
from symmlib.allreduce.plan import AllReducePlan
from symmlib.allreduce.samples import CLOSING, LaunchFiles
from symmlib.analysis.numerics import HISTOGRAM_COLUMNS, SPECIAL_COLUMNS, SUMMARY_COLUMNS, flagged, sentences, simulated
from symmlib.errors import SymmlibError, UsageError
from symmlib.progress import say
from symmlib.runs import write_csv, write_text

WORKER = "symmlib.allreduce.numerics_worker"
CPU_BACKENDS = ("gloo", "host/one_shot", "host/two_shot", "vllm/shm")
DTYPES = ("bfloat16", "float16", "float32")
REPEATS = 100
NUMEL = (1 << 14) + 8  # whole 16-byte vectors of each dtype, and no whole number of our kernels' 32 elements
SIMULATED_WORLD_SIZES = (2, 4, 8)
SUMMARY, HISTOGRAM, SPECIAL = "numerics.csv", "ulp_histogram.csv", "special_values.csv"


@dataclass(frozen=True)
class NumericsPlan:
    """What the ranks of one launch measure; as `AllReducePlan` where the names are the same.

    Each backend sums each of `cases.INPUTS` (`numel` elements) in each of `dtypes` `repeats` times, then special
    values.
    """

    world_size: int
    backends: tuple[str, ...]
    dtypes: tuple[str, ...]
    device: str
    one_gpu: bool
    repeats: int = REPEATS
    numel: int = NUMEL
    seed: int = 0

    @classmethod
    def loads(cls, text: str) -> "NumericsPlan":
        """The plan that `dumps` wrote."""
        return cls(**json.loads(text))

    def dumps(self) -> str:
        """JSON, for the ranks and for the run's record."""
        return json.dumps(dataclasses.asdict(self), indent=1)


@dataclass(frozen=True)
class Numerics:
    """What was found; columns as in `analysis.numerics`.

    `summary` (SUMMARY_COLUMNS): a row per backend, world size, dtype and inputs; a backend that could not serve a dtype
    has one row for it, with its `status` and `reason`. `histogram` (HISTOGRAM_COLUMNS): how many elements lie how far
    from the float64 sum rounded once, of backends and of simulated ways to add. `special` (SPECIAL_COLUMNS): what
    special values became.
    """

    summary: pd.DataFrame
    histogram: pd.DataFrame
    special: pd.DataFrame

    @property
    def flagged(self) -> list[str]:
        """A sentence for everything that should not be; empty where all is well."""
        return flagged(self.summary, self.special)

    @property
    def sentences(self) -> list[str]:
        """What was found, in words."""
        return sentences(self.summary, self.special)


def measure_numerics(
    out: Path,
    *,
    world_size: int | tuple[int, ...] = 2,
    backends: str | tuple[str, ...] = CPU_BACKENDS,
    dtypes: str | tuple[str, ...] = DTYPES,
    device: str = "",
    one_gpu: bool = False,
    repeats: int = REPEATS,
    worker: str = WORKER,
    stall_s: float | None = None,
) -> Numerics:
    """Measure on real ranks, in a fresh torchrun for each world size, and write what was found below `out`.

    Writes `results/numerics.csv`, `results/ulp_histogram.csv`, `results/special_values.csv`, and `raw/numerics/`
    (plans, logs, rows as the ranks wrote them); what was measured is written also when this ends early, by Ctrl-C or
    by an error. A backend that is not there, raises or ends a launch costs its own rows. Raises `UsageError` for what
    cannot be measured here, `SymmlibError` for a launch that ended of anything but a backend.
    """
    stall_s = patience.seconds(STALL_S) if stall_s is None else stall_s
    named = dtypes.split(",") if isinstance(dtypes, str) else list(dtypes)
    plans = [_plan(world_size, backends, dtype.strip(), device, one_gpu) for dtype in named]
    if not plans or len({plan.dtype for plan in plans}) < len(plans):
        raise UsageError(f"dtypes {dtypes!r} names none, or one twice. Name some of {', '.join(DTYPES)}.")
    require_room(plans[-1])
    if not isinstance(repeats, int) or repeats < 1:
        raise UsageError(f"repeats {repeats!r} is not a whole number of at least 1.")
    raw, results, first = Path(out) / "raw" / "numerics", Path(out) / "results", plans[0]
    with alone(raw):
        for old in [*raw.glob("launch-*"), *raw.glob("plan-*.json")]:
            if old.is_file():
                old.unlink()
        rows: list[dict] = []
        try:
            for one in first.each():
                dtypes = tuple(plan.dtype for plan in plans)
                plan = NumericsPlan(one.world_size, one.backends, dtypes, one.device, one_gpu, repeats)
                _launch_all(plan, raw, worker, stall_s, rows)
        except BaseException:
            try:
                _write(_tables(rows, first, plans), results)
            except (
                OSError,
                SymmlibError,
            ) as error:  # such as the full disk that ended it: told already
                say(f"what was measured could not be written: {error}")
            raise
        found = _tables(rows, first, plans)
        _write(found, results)
    if found.summary["max_ulp"].isna().all():
        reasons = "\n".join(f"  {row.backend}: {row.reason}" for row in found.summary.itertuples())
        raise SymmlibError(f"none of the backends could be measured:\n{reasons}\nLogs are in {raw}.")
    return found


def _write(found: Numerics, results: Path) -> None:
    for name, table in ((SUMMARY, found.summary), (HISTOGRAM, found.histogram), (SPECIAL, found.special)):
        write_csv(results / name, table)


def _plan(world_size, backends, dtype: str, device: str, one_gpu: bool) -> AllReducePlan:
    """The plan of the micro-benchmark that asks the same of this machine, so that it checks what was asked for."""
    return AllReducePlan(world_size, backends, (NUMEL * 4,), dtype=dtype, launches=1, device=device, one_gpu=one_gpu)


def _launch_all(plan: NumericsPlan, raw: Path, worker: str, stall_s: float, rows: list[dict]) -> None:
    """Add to `rows` those of one world size, from as many launches as there are backends that end one, and one more."""
    text = write_text(raw / f"plan-{plan.world_size}.json", plan.dumps())
    left = list(plan.backends)
    while left:
        number = len([*raw.glob("launch-*.log")]) + 1
        say(f"numerics of {', '.join(left)} on {plan.world_size} ranks, {plan.repeats} calls each")
        files = LaunchFiles(raw, number)
        without = [name for name in plan.backends if name not in left]
        arguments = [str(text), str(number), str(raw), "--without", ",".join(without)]
        try:
            ended, log_tail = torchrun(worker, plan.world_size, files, arguments, stall_s=stall_s, one_gpu=plan.one_gpu)
        finally:
            rows += _rows(raw / f"launch-{number}.rows.jsonl")
        now = files.reported()
        if not ended or now.get("doing") == CLOSING:
            break
        if "backend" not in now:
            doing = now.get("doing", "starting")
            raise SymmlibError(f"launch {number} {ended} while {doing}. The end of {files.log}:\n{log_tail}")
        reason = f"launch {number} {ended} while {now['doing']} {now['backend']}; see {files.log.name}"
        say(f"{reason}. Going on without {now['backend']}")
        rows.append(_failed(plan, now["backend"], now.get("dtype", ""), reason))
        # Backend by backend: those before it are done, and what this one has done stands.
        left = left[left.index(now["backend"]) + 1 :]


def _rows(path: Path) -> list[dict]:
    """What a launch wrote; of a line that it was about to write when it was ended, nothing."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _failed(plan: NumericsPlan, backend: str, dtype: str, reason: str) -> dict:
    """The row of a backend that ended its launch."""
    where = {"backend": backend, "world_size": plan.world_size, "dtype": dtype, "device": device_key(plan)}
    return {"table": "summary", **where, "status": "failed", "reason": reason}


def _tables(rows: list[dict], first: AllReducePlan, plans: list[AllReducePlan]) -> Numerics:
    columns = {"summary": SUMMARY_COLUMNS, "histogram": HISTOGRAM_COLUMNS, "special": SPECIAL_COLUMNS}
    found = {
        name: pd.DataFrame([row for row in rows if row["table"] == name], columns=wanted)
        for name, wanted in columns.items()
    }
    found["summary"]["reason"] = found["summary"]["reason"].fillna("")
    also = pd.DataFrame(_simulated_rows(first, [plan.dtype for plan in plans]), columns=HISTOGRAM_COLUMNS)
    histogram = pd.concat([one for one in (found["histogram"], also) if len(one)], ignore_index=True)
    return Numerics(found["summary"], histogram.astype({"ulp_to": "Int64"}), found["special"])


def _simulated_rows(plan: AllReducePlan, dtypes: list[str]) -> list[dict]:
    """The histograms of other orders and of accumulation in the dtype itself, of the inputs that the ranks sum."""
    return [
        {"backend": way, "world_size": world_size, "dtype": dtype, "inputs": kind, "device": "simulated", **row}
        for world_size in sorted({*SIMULATED_WORLD_SIZES, *plan.world_sizes})
        for dtype in dtypes
        for kind in INPUTS
        for parts in [inputs(kind, dtype, world_size=world_size, numel=NUMEL, seed=0)]
        for way, rows in simulated(parts, dtype).items()
        for row in rows
    ]
