"""A `vllm serve` that has done its imports and waits for its turn.

`server.Server` starts this file by path, so it uses the standard library and vLLM only:

    python -P standby.py FIFO IMPORTED

It imports what `vllm serve` imports first, makes the file IMPORTED, waits for a line in FIFO (a JSON list: the
arguments of the command `vllm`), and then is that command. Nothing else differs from typing it: the environment is this
process's own from its start, and vLLM starts the engine's and the workers' processes afresh. So the next server can
import, on a core that is idle while the one before it starts, instead of adding its imports to everybody's wait.
"""

import faulthandler
import json
import signal
import sys


def main(fifo: str, imported: str) -> None:
    faulthandler.register(signal.SIGUSR1)  # `processes.dump_stacks` asks where it hangs
    import vllm.entrypoints.cli.serve  # for the import alone
    from vllm.entrypoints.cli.main import main as vllm

    open(imported, "w").close()
    with open(fifo) as line:
        arguments = line.readline()
    if arguments:  # else nobody is left to serve
        sys.argv = ["vllm", *json.loads(arguments)]
        vllm()


if __name__ == "__main__":
    main(*sys.argv[1:])
