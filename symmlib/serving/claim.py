"""One serving experiment at a time on the same GPUs, or on the CPU; and the end of what a killed one left running.

Two experiments on the same cores or GPUs would each measure the other. `run` takes the claim before the first server.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from symmlib import patience
from symmlib.errors import UsageError
from symmlib.progress import say
from symmlib.vllm_plugin import SERVING

MARK = SERVING  # in the environment of every server: the directory for which it serves
MEMORY = "shared-memory.json"  # beside a server's log: what it has mapped in /dev/shm, as long as it may be left there
ORPHANS_GRACE_S = 5
SHARED_MEMORY = ("/dev/shm/psm_", "/dev/shm/vllm_dist_")  # how Python and vLLM name theirs


@contextlib.contextmanager
def alone(devices: list[str], raw: Path, holder: str) -> Iterator[None]:
    """Hold `devices` (GPUs by their UUID, or "cpu") and the directory `raw` as `holder`, a text that tells who does.

    Raises `UsageError` with the holder's text if somebody of this user holds one of them. The kernel lets go of them
    whatever ends this process.
    """
    place = Path(tempfile.gettempdir()) / f"symmlib-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        place.mkdir(mode=0o700)
    found = place.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise UsageError(f"{place} is not a directory of this user's alone. Remove it, or set TMPDIR to another place.")
    with contextlib.ExitStack() as locks:
        directory = f"directory-{hashlib.sha256(str(raw.resolve()).encode()).hexdigest()[:16]}"
        for device in [directory, *devices]:
            name = f"{device.replace('/', '-')}.lock"
            descriptor = os.open(place / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            locks.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                said = os.read(descriptor, 4096).decode(errors="replace").strip() or "another experiment"
                what = {"cpu": "the CPU", directory: f"{raw}"}.get(device, f"GPU {device}")
                raise UsageError(
                    f"{what} serves {said} at this moment, and two experiments would measure each other. Wait for it, "
                    "or end it first."
                ) from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{holder} (process {os.getpid()})".encode(), 0)
        yield


def devices(kind: str, one_gpu: bool = False) -> list[str]:
    """What an experiment holds: "cpu" for the kind `cpu`, else the UUIDs of all GPUs that CUDA_VISIBLE_DEVICES leaves
    visible, or with `one_gpu` that of the first of them."""
    if kind == "cpu":
        return ["cpu"]
    query = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=patience.seconds(30), check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise UsageError(
            f"nvidia-smi does not say which GPUs are here ({error}); `symmlib doctor` may know why."
        ) from None
    gpus = dict(line.split(", ", 1) for line in said.splitlines() if ", " in line)
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    whole = {
        name: uuid for name in visible for uuid in gpus.values() if uuid.startswith(name)
    }  # CUDA takes a beginning
    found = [gpus.get(name) or whole.get(name, name) for name in visible or gpus]
    return found[:1] if one_gpu else sorted(set(found))


def end_orphans(raw: Path) -> int:
    """End the servers that an experiment in the directory `raw` left running when it was killed; returns how many.

    Told by `MARK` in their environment, so nobody else's process is touched. Also removes the shared memory that they
    or others before them left.
    """
    found = [process for process in psutil.process_iter() if _serves_for(process, raw)]
    memory = {path for process in found for path in mapped(process.pid)}
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)  # psutil compares start times: never another process with the same id
        _, alive = psutil.wait_procs(found, timeout=ORPHANS_GRACE_S)
        if not alive:
            break
    if found:
        say(f"ended {len(found)} processes that a killed run of this experiment had left")
    for note in raw.rglob(MEMORY):
        with contextlib.suppress(OSError, ValueError, TypeError):
            memory.update(Path(path) for path in json.loads(note.read_text()))
        note.unlink(missing_ok=True)
    remove(memory)
    return len(found)


def mapped(pid: int) -> Iterator[Path]:
    """Python's and vLLM's shared memory that the process has mapped; none for a process that is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            path = line.rpartition(" ")[2]
            if path.startswith(SHARED_MEMORY):
                yield Path(path)


def remove(memory: set[Path]) -> None:
    """Unlink shared memory of ours, whose names are random: none can be somebody else's by now."""
    for path in memory:
        if str(path).startswith(SHARED_MEMORY) and path.parent == Path("/dev/shm"):
            path.unlink(missing_ok=True)


def _serves_for(process: psutil.Process, raw: Path) -> bool:
    try:
        return process.pid != os.getpid() and process.environ().get(MARK) == str(raw.resolve())
    except (psutil.Error, OSError):
        return False
