"""`symmlib numerics`: how exact all-reduces are."""

from symmlib.cli.options import add_command, path, world_size
from symmlib.cli.output import output, print_banner, short

COLUMNS = ["backend", "world_size", "dtype", "inputs", "max_abs_error", "share_nearest", "p99_ulp", "max_ulp",
           "identical_repeats", "identical_across_ranks", "status"]  # fmt: skip


def add(commands) -> None:
    command = add_command(commands, numerics, "how exact all-reduces are: errors, repeats, ranks, special values")
    command.add_argument("--world-size", type=world_size, default=2, metavar="N[,N...]", help="ranks (default 2), or "
                         "several numbers of ranks to measure in turn, such as 2,4")  # fmt: skip
    command.add_argument("--backends", default="gloo,host/one_shot,host/two_shot,vllm/shm", help="names, by commas")
    command.add_argument("--dtypes", default="bfloat16,float16,float32", help="names, by commas")
    command.add_argument("--device", default="", help="cpu or cuda (default: where the backends run)")
    command.add_argument("--repeats", type=int, default=100, help="calls with the same inputs (default 100)")
    command.add_argument("--one-gpu", action="store_true", help="all ranks share one GPU, under NVIDIA MPS")
    command.add_argument("--out", type=path, metavar="DIR", help="where raw/ and results/ go (default: "
                         "reports/numerics, whose last results are replaced)")  # fmt: skip


def numerics(arguments) -> int:
    from symmlib.allreduce.numerics import measure_numerics
    from symmlib.runs import default_reports_dir

    with output(arguments.out or default_reports_dir() / "numerics", "numerics", {}) as out:
        found = measure_numerics(
            out,
            world_size=arguments.world_size,
            backends=arguments.backends,
            dtypes=arguments.dtypes,
            device=arguments.device,
            one_gpu=arguments.one_gpu,
            repeats=arguments.repeats,
        )
    print(found.summary[COLUMNS].to_string(index=False, na_rep="-", float_format="{:.3g}".format))
    for row in (
        found.summary[found.summary["status"] == "unavailable"].drop_duplicates(["backend", "dtype"]).itertuples()
    ):
        print(f"{row.backend} in {row.dtype}, unavailable: {row.reason}")
    print()
    for sentence in found.sentences:
        print(f"{sentence}.")
    print_banner(found.summary)
    print(f"\nResults: {short(out / 'results')}")
    return 1 if found.flagged else 0
