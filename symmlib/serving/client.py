"""The load generator's process: it imports vLLM's benchmark once, then runs `vllm bench serve` as often as asked.

`load.Client` starts this file by path, so it uses the standard library and vLLM only:

    python -P client.py SOCKET [PROGRAM]

It connects to the Unix socket SOCKET, says "ready", and for each line (a JSON object: `arguments`, those of `vllm bench
serve`, `log` and `schedule`, two files) answers with the exit status. Each measurement is a fork of its own, so all
start from the same state and none sees another's; what is saved is only the import of vLLM, 8 s each time. With
PROGRAM, a Python file, it does what the function `job` of that file does with such an object instead.

As vLLM makes the requests and plans when to send them, both are noted in the file `schedule`: hashes by which arms are
held to the same requests, and the planned times by which a client that lags is found out.
"""

import faulthandler
import hashlib
import json
import os
import runpy
import signal
import socket
import sys
import traceback


def main(address: str, program: str = "") -> None:
    faulthandler.register(signal.SIGUSR1)  # `processes.dump_stacks` asks where it hangs; forks inherit it
    do = runpy.run_path(program)["job"] if program else _benchmark()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        with connection.makefile("rw") as lines:
            _tell(lines, "ready")
            for line in lines:
                _tell(lines, _run(json.loads(line), do))


def _benchmark():
    """What makes one measurement of a job, with vLLM's benchmark imported."""
    import vllm.benchmarks.serve as serve
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser(prog="vllm bench serve")
    serve.add_cli_args(parser)

    def bench(job: dict) -> None:
        serve.get_request = _noting(serve.get_request, job["schedule"])
        serve.main(parser.parse_args(job["arguments"]))

    return bench


def _tell(lines, text) -> None:
    lines.write(f"{text}\n")
    lines.flush()


def _run(job: dict, do) -> int:
    """Run one measurement in a fork, its output in the file `log`; returns its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        do(job)
        status = 0
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # not through the parent's clean-up, which is not this process's


def _noting(get_request, path: str):
    """vLLM's `get_request`, which sends the requests one after the other, having noted what it is about to do."""

    def noting(requests, rate, *arguments, **options):
        planned_s = _planned_s(len(requests), rate)
        lengths = [(request.prompt_len, request.expected_output_len) for request in requests]
        what = [[request.prompt for request in requests], lengths, [round(at, 6) for at in planned_s]]
        note = {"requests": len(requests), "schedule_sha256": _digest(what), "lengths_sha256": _digest(lengths)}
        with open(path, "w") as file:
            json.dump(note | {"planned_s": planned_s}, file)
        return get_request(requests, rate, *arguments, **options)

    return noting


def _planned_s(count: int, rate: float) -> list[float]:
    """When each request is due, in seconds from the first moment: as vLLM's `get_request` (0.24 to 0.33) draws them.

    Drawn from a copy of the generator's state, so that vLLM draws the same again.
    """
    import numpy as np

    drawn = np.random.RandomState()
    drawn.set_state(np.random.get_state())
    at = np.cumsum([drawn.gamma(shape=1.0, scale=1.0 / rate) for _ in range(count)])
    return (at * (count / rate / at[-1])).tolist()  # stretched so that the last one is due when the rate says


def _digest(data) -> str:
    return hashlib.sha256(json.dumps(data).encode()).hexdigest()


if __name__ == "__main__":
    main(*sys.argv[1:])
