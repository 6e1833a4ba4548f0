"""The load generator's process: it imports vLLM's benchmark once, then runs `vllm bench serve` as often as asked.

`load.Client` starts this file by path, so it uses the standard library and vLLM only:

    python -P client.py SOCKET

It connects to the Unix socket SOCKET, says "ready", and for each line (a JSON object: `arguments`, those of `vllm bench
serve`, and `log`, a file) answers with the exit status. Each measurement is a fork of its own, so all start from the
same state and none sees another's; what is saved is only the import of vLLM, 8 s each time.
"""

import json
import os
import socket
import sys
import traceback


def main(address: str) -> None:
    from vllm.benchmarks.serve import add_cli_args
    from vllm.benchmarks.serve import main as bench_serve
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser(prog="vllm bench serve")
    add_cli_args(parser)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        with connection.makefile("rw") as lines:
            _tell(lines, "ready")
            for line in lines:
                _tell(lines, _run(json.loads(line), lambda given: bench_serve(parser.parse_args(given))))


def _tell(lines, text) -> None:
    lines.write(f"{text}\n")
    lines.flush()


def _run(job: dict, bench) -> int:
    """Run one measurement in a fork, its output in the file `log`; returns its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        bench(job["arguments"])
        status = 0
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # not through the parent's clean-up, which is not this process's


if __name__ == "__main__":
    main(sys.argv[1])
