"""`torchrun` for ranks of this machine alone, which meet where nobody else can reach them.

Usually torchrun and its ranks meet at a `TCPStore` of torch's. That listens on all interfaces of the machine, whatever
address it is given, and asks for no password: whoever reaches its port could make ranks talk to somebody else. So here
torchrun itself meets at a file in a directory of mode 0700, and rank 0 makes the ranks' store on a socket that it has
bound to 127.0.0.1. `allreduce.launches` and `doctor` start ranks by `command`; those come together by `join`.
"""

import contextlib
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from symmlib import patience

if TYPE_CHECKING:
    import torch.distributed as dist

LOOPBACK = "127.0.0.1"
MEET_S = 300  # for rank 0 to say where: it may be importing torch on a crowded machine
PORT_FILE = "SYMMLIB_RANKS_MEET"  # for `join`: the file that says on which port
# One thread a rank: a second would run on another rank's core. Nothing of gloo leaves the loopback interface.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONUNBUFFERED": "1"}


@contextlib.contextmanager
def command(world_size: int) -> Iterator[tuple[list[str], dict[str, str]]]:
    """A command to which the ranks' program and its arguments are added, and changes to the environment that it needs.

    Once for each launch. What torchrun notes for itself goes with the context.
    """
    with tempfile.TemporaryDirectory(prefix="symmlib-ranks-") as directory:  # of mode 0700, whatever the umask
        private = Path(directory)
        argv = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={world_size}"]
        argv += ["--rdzv-backend=c10d", "--rdzv-conf=store_type=file", f"--rdzv-endpoint={private / 'torchrun'}"]
        argv += [f"--local-addr={LOOPBACK}", f"--log-dir={private / 'log'}"]
        own = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", PORT_FILE: str(private / "port")}
        yield argv, ENVIRONMENT | own


def join(timeout: timedelta) -> None:
    """Make torch's default group, over gloo, of the ranks that `command` started; one of them calls this.

    `timeout`: of the group's operations. Ranks of a torchrun that was started in another way meet as that one says.
    """
    import torch.distributed as dist

    path = os.environ.get(PORT_FILE)
    if path is None:
        dist.init_process_group("gloo", timeout=timeout)
        return
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    told = dist.FileStore(path, world_size)
    told.set_timeout(timedelta(seconds=patience.seconds(MEET_S)))
    if rank == 0:
        store = loopback_store(world_size, timeout)
        told.set("port", str(store.port))
    else:
        store = dist.TCPStore(LOOPBACK, int(told.get("port")), world_size, timeout=timeout)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=timeout)


def loopback_store(world_size: int, timeout: timedelta = timedelta(minutes=5)) -> "dist.TCPStore":
    """A `TCPStore` that this process holds for `world_size` ranks of this machine, at a port that was free."""
    import torch.distributed as dist

    with socket.create_server((LOOPBACK, 0)) as listener:
        port = listener.getsockname()[1]
        own = {"is_master": True, "wait_for_workers": False, "master_listen_fd": listener.detach()}
    return dist.TCPStore(LOOPBACK, port, world_size, timeout=timeout, **own)
