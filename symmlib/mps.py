"""NVIDIA MPS for the time of a `with`: processes that share one GPU then run on it together, not in turns.

Ranks wait for each other inside their kernels. Without MPS the GPU gives one process after the other a slice of time,
and every wait takes a round of slices: 9 ms an all-reduce of 2 ranks on an H200, with MPS microseconds.
Ranks of a one-GPU plan and servers of a one-GPU experiment run under it; `doctor` asks whether it is there.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from symmlib import patience
from symmlib.errors import SymmlibError, UsageError
from symmlib.processes import ProcessGroup

CONTROL = "nvidia-cuda-mps-control"
HELP = (
    "it comes with NVIDIA's driver (Ubuntu: nvidia-compute-utils-<version>, Debian: nvidia-cuda-mps); a container gets "
    "it with NVIDIA_DRIVER_CAPABILITIES=compute,utility"
)
START_TIMEOUT_S = patience.seconds(30)
ANSWER_TIMEOUT_S = patience.seconds(10)
# Ranks that share a GPU: torch allows it, and nobody looks for an NVSwitch between a GPU and itself.
SHARED_GPU = {
    "TORCH_SYMM_MEM_ALLOW_OVERLAPPING_DEVICES": "1",
    "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
    "NCCL_NVLS_ENABLE": "0",
    "NVSHMEM_DISABLE_NVLS": "1",
}
QUIT_TIMEOUT_S = 10  # its server may wait for a kernel that waits for a dead rank: then all of it is ended


def installed() -> bool:
    """Whether MPS can be started here."""
    return shutil.which(CONTROL) is not None


def require() -> None:
    """Raise `UsageError` where MPS is not installed."""
    if not installed():
        raise UsageError(f"ranks that share a GPU need NVIDIA MPS, and {CONTROL} is not on the PATH: {HELP}.")


@contextlib.contextmanager
def mps(directory: Path) -> Iterator[dict[str, str]]:
    """Run an MPS of our own; yields the environment by which clients find it.

    `directory` keeps what it logs (`mps.log`, `control.log`, `server.log`). Its pipes are in a private directory below
    /tmp, so that no other MPS of this machine is disturbed. It ends with the context, and with this process however
    that ends; a client that is left then loses its GPU.

    Raises `UsageError` where MPS is not installed, `SymmlibError` with the end of its log where it does not start.
    """
    require()
    directory = Path(directory).absolute()
    with contextlib.ExitStack() as stack:
        # Not in `directory`: the path of a socket ends after 107 bytes (unix(7)).
        pipes = stack.enter_context(tempfile.TemporaryDirectory(prefix="symmlib-mps-", dir="/tmp"))
        environment = {"CUDA_MPS_PIPE_DIRECTORY": pipes, "CUDA_MPS_LOG_DIRECTORY": str(directory)}
        # In the foreground it stays our descendant, as does the server that it starts for the first client. The shell
        # outlives it to remove its pipes, for where this process is killed.
        command = ["sh", "-c", 'trap : TERM; "$0" -f; status=$?; rm -rf "$1"; exit $status', CONTROL, pipes]
        settings = environment | _all_gpus()
        control = stack.enter_context(ProcessGroup(command, log=directory / "mps.log", env=settings))
        _wait_for_answer(control, environment)
        try:
            yield environment
        finally:
            if _asked("quit", environment):
                with contextlib.suppress(SymmlibError):  # too slow: leaving the group ends it
                    control.wait(QUIT_TIMEOUT_S)


def _all_gpus() -> dict[str, None]:
    """MPS counts the GPUs that it may use from 0 again, so a client's numbers would name others than it meant
    (NVIDIA's MPS guide on CUDA_VISIBLE_DEVICES): it gets all of them, unless they are named by their UUIDs."""
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return {"CUDA_VISIBLE_DEVICES": None} if named and all(name.isdigit() for name in named) else {}


def _wait_for_answer(control: ProcessGroup, environment: dict[str, str]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _asked("get_server_list", environment):
        if (status := control.poll()) is not None:
            raise SymmlibError(f"NVIDIA MPS ended with status {status} as it was started.{_logged(control)}")
        if time.monotonic() > deadline:
            raise SymmlibError(f"NVIDIA MPS did not answer within {START_TIMEOUT_S:g} s.{_logged(control)}")
        time.sleep(0.05)


def _asked(command: str, environment: dict[str, str]) -> bool:
    """Whether the control answered `command`."""
    try:
        done = subprocess.run(
            [CONTROL],
            input=f"{command}\n",
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=ANSWER_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0 and "Cannot find MPS control daemon" not in done.stdout + done.stderr


def _logged(control: ProcessGroup) -> str:
    """What it says itself, in its own log and on its output."""
    logs = [control.log.with_name("control.log"), control.log]
    tails = [(log, log.read_text(errors="replace").strip()[-1000:]) for log in logs if log.is_file()]
    told = "".join(f"\nThe end of {log}:\n{tail}" for log, tail in tails if tail)
    return told or f" It left no word in {control.log.parent}."
