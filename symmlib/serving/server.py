"""A real vLLM server: its command and environment for an arm, its start, its readiness, and its certain end.

Everything that depends on the platform (a GPU or none) is in `environment` and `command`.
"""

import contextlib
import json
import os
import re
import shlex
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from importlib import metadata
from pathlib import Path

from symmlib import vllm_one_gpu
from symmlib.errors import SymmlibError, UsageError
from symmlib.mps import SHARED_GPU
from symmlib.processes import ProcessGroup
from symmlib.progress import say
from symmlib.runs import write_json
from symmlib.serving import access, claim
from symmlib.serving.arms import VLLM_DEFAULT, Arm
from symmlib.serving.experiment import ServingExperiment
from symmlib.serving.model import Model
from symmlib.vllm_plugin import ROUTER

HOST = "127.0.0.1"  # nothing that symmlib starts is reachable from another machine
KV_CACHE = "VLLM_CPU_KVCACHE_SPACE"  # GiB; the user's own, where it is set
POLL_S = 0.2
STARTING_GRACE_S = 3  # vLLM hears no SIGTERM while it starts, and has nothing yet to end in order
SOCKET_PATH_BYTES = 107  # unix(7), without the zero at its end
REPORT_S = 15  # between progress lines while a server starts


def platform() -> str:
    """'cpu' or 'cuda': what the installed vLLM was built for, which is how vLLM itself decides."""
    try:
        return "cpu" if "cpu" in metadata.version("vllm") else "cuda"
    except metadata.PackageNotFoundError:
        raise SymmlibError("vLLM is not installed here: run `make report`, or see `symmlib doctor`.") from None


def command(experiment: ServingExperiment, model: Model, arm: Arm, tp: int, port: int | str, kind: str) -> list[str]:
    """The `vllm serve` command of one arm; `kind` is `platform()`."""
    argv = ["vllm", "serve", model.name]
    argv += ["--tensor-parallel-size", str(tp), "--host", HOST, "--port", str(port)]
    argv += ["--allowed-origins", "[]"]  # no page of another origin may read what it answers, as some vLLMs let
    argv += ["--max-model-len", str(experiment.max_model_len), "--no-enable-prefix-caching"]
    if model.dummy:
        argv += ["--load-format", "dummy"]
    if kind == "cpu":
        argv += ["--enforce-eager"]
    elif arm.is_plugged or experiment.one_gpu:
        # Fused with the norm that follows, an all-reduce would not pass the communicator that the plug-in replaces.
        argv += ["--compilation-config", json.dumps({"pass_config": {"fuse_allreduce_rms": False}})]
    if experiment.one_gpu:
        argv += vllm_one_gpu.ARGUMENTS
    return [*argv, *experiment.server_args, *arm.server_args]


def environment(
    model: Model, arm: Arm, tp: int, kind: str, *, trace: Path, routing_table: Path | None = None, one_gpu: bool = False
) -> dict[str, str | None]:
    """Changes to this process's environment for the server of one arm; None takes a variable away.

    `one_gpu`: its ranks share a GPU; they also need the environment that `mps.mps` gives. Raises `UsageError` where the
    machine has fewer cores than ranks and no GPU.
    """
    plugged = arm.is_plugged
    routed = routing_table and arm.is_routed
    table = str(Path(routing_table).resolve()) if routed else None
    changes: dict[str, str | None] = {
        "SYMMLIB_ALLREDUCE": arm.all_reduce if plugged else None,
        "SYMMLIB_ROUTING_TABLE": table,
        "SYMMLIB_TRACE": str(trace.resolve()) if plugged else None,
        vllm_one_gpu.VARIABLE: None,  # never by itself
        access.SERVER: access.KEY,
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_HOST_IP": HOST,
        "GLOO_SOCKET_IFNAME": "lo",
        "NO_COLOR": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if model.local:
        changes["HF_HUB_OFFLINE"] = "1"
    if kind == "cpu":
        changes["VLLM_CPU_OMP_THREADS_BIND"] = cores_of_ranks(tp, sorted(os.sched_getaffinity(0)))
        changes[KV_CACHE] = os.environ.get(KV_CACHE, "1")
        changes["TORCHDYNAMO_DISABLE"] = "1"  # else the first request compiles for seconds
    elif plugged:
        changes["VLLM_ALLREDUCE_USE_FLASHINFER"] = "0"  # it would serve small messages before the plug-in is asked
    if one_gpu:
        changes |= SHARED_GPU | vllm_one_gpu.ENVIRONMENT
    return changes | dict(arm.environment)


def why_not(all_reduce: str, kind: str, one_gpu: bool = False) -> str:
    """Why this machine cannot serve with `all_reduce`; empty if nothing is known against it before a server starts.
    `one_gpu`: on ranks that share a GPU."""
    if one_gpu:
        return _why_not_on_one_gpu(all_reduce, kind)
    host = all_reduce in ("gloo", "vllm/shm") or all_reduce.startswith("host/")
    if all_reduce in (ROUTER, VLLM_DEFAULT) or host == (kind == "cpu"):
        if all_reduce == "vllm/shm":
            from symmlib.communicators.vllm_peers import shm_support

            return shm_support().reason
        return ""
    return "it needs a GPU" if kind == "cpu" else "it sums in the host's memory, and this vLLM serves from GPUs"


def _why_not_on_one_gpu(all_reduce: str, kind: str) -> str:
    if kind == "cpu":
        return "ranks that share a GPU need one, and this vLLM serves from the CPU"
    if all_reduce == VLLM_DEFAULT:
        return "on one GPU vLLM's own choice is never NCCL; name what is to serve, such as vllm/symm_mem or gloo"
    if all_reduce in ("symm_mem/multimem", "nccl", "nccl/symmetric"):
        return "it does not run where ranks share a GPU"
    return "" if all_reduce == "gloo" else why_not(all_reduce, kind)


def cores_of_ranks(tp: int, cores: list[int]) -> str:
    """vLLM's core binding for `tp` ranks, such as '0|1' or '0,1,2|4,5,6': equal shares of `cores`.

    Where a share has more than one core, one is left for the server's other processes and the client.
    """
    share = len(cores) // tp
    if not share:
        raise UsageError(
            f"TP={tp} needs a core for every rank, and {len(cores)} can be used here. Without a GPU, ranks that share "
            "a core wait for each other's time slices, so nothing would be measured but those."
        )
    shares = [cores[rank * share : (rank + 1) * share] for rank in range(tp)]
    return "|".join(",".join(map(str, part[:-1] if share > 1 else part)) for part in shares)


def free_port() -> int:
    """A port on the loopback interface that nobody holds just now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


class Server:
    """One server: its process imports vLLM from construction on, and serves from `start` on.

    `env`: changes to this process's environment. `label` says in messages what is running. Leaving the context ends it
    and all that it started, whatever happens.
    """

    def __init__(self, env: dict[str, str | None], *, log: Path, label: str):
        self.url = ""
        self.label = label
        self._port = 0
        self._memory: set[Path] = set()
        self._note = Path(log).with_name(claim.MEMORY)
        self._started = 0.0
        self._is_ready = False
        self._directory = tempfile.TemporaryDirectory(prefix="symmlib-")
        fifo, self._imported = Path(self._directory.name) / "turn", Path(self._directory.name) / "imported"
        os.mkfifo(fifo)
        self._turn = os.open(fifo, os.O_RDWR)  # for writing too, so that neither side waits for the other to open it
        argv = [sys.executable, "-P", str(Path(__file__).with_name("standby.py")), str(fifo), str(self._imported)]
        self._group = ProcessGroup(argv, log=log, env=env | self._sockets())

    def _sockets(self) -> dict[str, str]:
        """Has vLLM's processes meet in our private directory: their sockets go with it, and would stay in TMPDIR."""
        path = f"{self._directory.name}/{uuid.uuid4()}"  # as vLLM names them
        return {"VLLM_RPC_BASE_PATH": self._directory.name} if len(path.encode()) <= SOCKET_PATH_BYTES else {}

    def wait_until_imported(self, timeout_s: float) -> None:
        """Wait until its imports are done and it costs no more time before `start`; raises as `wait_until_ready`."""
        began = time.monotonic()
        while not self._imported.exists():
            self.check()
            if time.monotonic() - began > timeout_s:
                raise self._late(f"had not imported vLLM after {timeout_s:g} s")
            time.sleep(POLL_S)

    def start(self, argv: list[str], port: int) -> None:
        """Serve: `argv` as `command` gives it, which names `port`. Raises `SymmlibError` if the port is taken."""
        require_free(port)
        self.url, self._port = f"http://{HOST}:{port}", port
        self._started = time.monotonic()
        os.write(self._turn, (json.dumps(argv[1:]) + "\n").encode())

    def wait_until_ready(self, timeout_s: float) -> float:
        """Wait until it answers; returns the seconds since `start`.

        Raises `SymmlibError`, with the end of the log, if it ends before that or takes longer than `timeout_s`.
        """
        reported = 0.0
        while True:
            waited = time.monotonic() - self._started
            self.check()
            self._note_memory()
            if _answers(f"{self.url}/health"):
                self._is_ready = True
                return waited
            if waited > timeout_s:
                raise self._late(f"was not ready after {timeout_s:g} s")
            if waited - reported >= REPORT_S:
                say(f"{self.label} is starting, {waited:.0f} s so far: {_last_words(self._group.tail(40))}")
                reported = waited
            time.sleep(POLL_S)

    def check(self) -> None:
        """Raise `SymmlibError`, with the end of the log, if the server has ended."""
        status = self._group.poll()
        if status is None:
            return
        if re.search(r"address already in use", self._group.tail(200), re.IGNORECASE):
            raise SymmlibError(f"{self.label} found its port taken. {_taken(self._port)}")
        how = f"was ended by signal {-status}" if status < 0 else f"ended with exit status {status}"
        raise SymmlibError(f"{self.label} {how}. {self._log_end()}")

    def dump_stacks(self) -> str:
        """Have its processes write their Python stacks into the log; see `ProcessGroup.dump_stacks`."""
        return self._group.dump_stacks()

    def end(self) -> None:
        """End it, and remove the shared memory that it leaves behind. Safe to call again."""
        if self._turn is None:
            return  # and its process id may be somebody else's by now
        self._note_memory()
        grace_s = 10 if self._is_ready else STARTING_GRACE_S
        self._group.end(grace_s, self._note_memory)  # a server that is still starting may make some as it is ended
        claim.remove(self._memory)
        self._note.unlink(missing_ok=True)
        os.close(self._turn)
        self._turn = None
        self._directory.cleanup()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *exception) -> None:
        self.end()

    def _note_memory(self) -> None:
        """Remember the shared memory that our processes have mapped: vLLM leaves its own behind when it is ended.

        Noted while they live, by what each has mapped, so that nobody else's is ever touched.
        """
        known = len(self._memory)
        for pid in self._group.members():
            self._memory.update(claim.mapped(pid))
        if len(self._memory) > known:  # should this process be killed, the next one finds here what to remove
            with contextlib.suppress(UsageError):  # a full disk
                write_json(self._note, sorted(map(str, self._memory)))

    def _late(self, what: str) -> SymmlibError:
        halted = self._group.dump_stacks()
        return SymmlibError(f"{self.label} {what}{halted} (ready_timeout_s sets how long to wait). {self._log_end()}")

    def _log_end(self) -> str:
        cause = self._group.first_error()
        first = f"The first error in it: {cause}\n" if cause else ""
        return f"Its log is {self._group.log}. {first}The end of the log:\n{self._group.tail()}"


def shell(argv: list[str], env: dict[str, str | None]) -> str:
    """One line for a shell that starts the same server, without the key, which is this process's."""
    env = {**env, access.SERVER: None}
    sets = [f"{name}={shlex.quote(value)}" for name, value in sorted(env.items()) if value is not None]
    unsets = [f"-u {name}" for name, value in sorted(env.items()) if value is None]
    return " ".join(["env", *unsets, *sets, shlex.join(argv)])


def require_free(port: int) -> None:
    """Raise `SymmlibError` if somebody listens on `port` of the loopback interface."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as vLLM: a closed connection does not hold a port
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise SymmlibError(f"{_taken(port)} ({error.strerror})") from None


def _taken(port: int) -> str:
    return f"Port {port} on {HOST} is taken. Set another one, or port 0 for any that is free."


def _answers(url: str) -> bool:
    try:
        with access.open_url(url, 5) as response:
            return response.status == 200
    except (OSError, urllib.error.URLError):
        return False


def _last_words(log_end: str) -> str:
    """The last thing a vLLM log says, without process, level, time and file."""
    lines = [line for line in log_end.splitlines() if line.strip()] or ["no log yet"]
    return re.sub(r"^(\(.*?\) )?(INFO|WARNING|ERROR|DEBUG) \S+ \S+ \[\S+\] ", "", lines[-1])[:120]
