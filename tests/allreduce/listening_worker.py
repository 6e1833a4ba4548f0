"""A worker that sums over gloo, and tells where torchrun and its ranks listen at that moment; see `test_launches`."""

import json
import sys
from datetime import timedelta
from pathlib import Path

import psutil
import torch
import torch.distributed as dist

from symmlib.torchrun import join

if __name__ == "__main__":
    _, _, launch, directory, *_ = sys.argv
    join(timedelta(minutes=5))
    dist.all_reduce(torch.ones(4), group=dist.new_group(backend="gloo"))
    if dist.get_rank() == 0:
        torchrun = psutil.Process().parent()
        processes = [torchrun, *torchrun.children(recursive=True)]
        found = {
            process.pid: [one.laddr.ip for one in process.net_connections("inet") if not one.raddr]
            for process in processes
        }
        path = Path(directory) / f"launch-{launch}-listening.json"
        path.write_text(json.dumps({"torchrun": torchrun.cmdline(), "found": found}))
    dist.barrier()
    dist.destroy_process_group()
