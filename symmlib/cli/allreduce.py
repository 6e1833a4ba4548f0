"""`symmlib allreduce`: the micro-benchmark alone."""

from symmlib.cli.options import add_command, add_out, world_size
from symmlib.cli.output import digits, output, print_banner, short
from symmlib.errors import SymmlibError


def add(commands) -> None:
    command = add_command(commands, allreduce, "measure all-reduces in fresh torchrun launches")
    command.add_argument("--world-size", type=world_size, default=2, metavar="N[,N...]", help="ranks (default 2), or "
                         "several numbers of ranks to measure in turn, such as 2,4,8")  # fmt: skip
    command.add_argument("--backends", default="gloo,host/one_shot,host/two_shot,vllm/shm", help="names, by commas")
    command.add_argument("--sizes", default="1KiB:16MiB:x4", help="bytes per rank: 4KiB,64KiB or 1KiB:16MiB:x4")
    command.add_argument("--dtype", default="bfloat16", help="bfloat16, float16 or float32")
    command.add_argument("--mode", default="eager", help="eager, or graph on GPUs")
    command.add_argument("--device", default="", help="cpu or cuda (default: where the backends run)")
    command.add_argument("--launches", type=int, default=3, help="fresh torchruns (default 3)")
    command.add_argument("--refine", type=float, default=0, metavar="SECONDS", help="time for further sizes around "
                         "bounds that are not known well (default 0)")  # fmt: skip
    command.add_argument("--one-gpu", action="store_true", help="all ranks share one GPU, under NVIDIA MPS")
    command.add_argument("--beside-a-model", action="store_true", help="with --one-gpu: hold no more of the GPU than "
                         "in vLLM, whose ranks compute on it, too")  # fmt: skip
    add_out(command)


def allreduce(arguments) -> int:
    from symmlib.allreduce import AllReducePlan, measure, read_results
    from symmlib.routing.derive import derive

    parameters = {
        "world_size": arguments.world_size,
        "backends": [name.strip() for name in arguments.backends.split(",")],
        "sizes": arguments.sizes,
        "dtype": arguments.dtype,
        "mode": arguments.mode,
        "launches": arguments.launches,
        "refine_s": arguments.refine,
        "one_gpu": arguments.one_gpu,
        "beside_a_model": arguments.beside_a_model,
    }
    plan = AllReducePlan(**parameters, device=arguments.device)
    with output(arguments.out, "allreduce", {"02_allreduce": parameters}) as out:
        summary = measure(plan, out)
        columns = ["backend", "bytes", "median_us", "p99_us", "algbw_gbps", "busbw_gbps", "wrong", "status", "reason"]
        columns = ["world_size", *columns] if len(plan.world_sizes) > 1 else columns
        print(summary[columns].to_string(index=False, na_rep="-", float_format=digits))
        print_banner(summary)
        print(f"\nResults: {short(out / 'results')}")
        try:
            results = read_results([out])
            derive(results.timed, source=results.source).save(out / "routing.toml")
            print(f"Routes: {short(out / 'routing.toml')}")
        except SymmlibError as error:  # such as: only vLLM's own was measured
            print(f"No routing table: {error}")
    return 0
