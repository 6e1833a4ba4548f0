"""`symmlib routes show`, `derive` and `check`: routing tables."""

from symmlib.cli.options import add_command, path
from symmlib.cli.output import output, print_banner, short
from symmlib.sizes import format_size


def add(commands) -> None:
    routes = add_command(commands, None, "routing tables", "routes").add_subparsers(metavar="COMMAND", required=True)
    command = add_command(routes, routes_show, "what serves which size, and why", "show")
    command.add_argument("table", type=path, nargs="?", metavar="FILE", help="a routing table; by default the built-in")
    command.add_argument("--all", action="store_true", help="built-in tables of all devices, not only of this machine")
    command.add_argument("--device", help="only this device, such as sm_100 or cpu")
    command.add_argument("--world-size", type=int, help="only this world size")
    command.add_argument("--dtype", help="only this dtype")
    command.add_argument("--mode", help="only this mode, eager or graph")
    command = add_command(routes, routes_derive, "a routing table from measurements", "derive")
    command.add_argument("results", type=path, nargs="+", metavar="RESULTS", help="a run, or an --out of allreduce")
    command.add_argument("--out", type=path, metavar="FILE", help="by default routing.toml in the first RESULTS")
    command.add_argument("--previous", type=path, metavar="FILE", help="the table in use: keep what is not shown worse")
    command.add_argument("--incumbent", metavar="NAME", help="the backend to keep within 3 %% (default: the simplest)")
    command.add_argument("--candidates", metavar="NAMES", help="backends that may be chosen, by commas")

    command = add_command(routes, routes_check, "measure a table's choices at sizes it was not derived from", "check")
    command.add_argument("table", type=path, metavar="FILE", help="a routing table")
    command.add_argument("--results", type=path, nargs="+", metavar="RESULTS",
                         help="what it was derived from (default: the directory of FILE)")  # fmt: skip
    command.add_argument("--launches", type=int, default=3, help="fresh torchruns (default 3)")
    command.add_argument(
        "--out", type=path, metavar="DIR", help="where check/ and results/ go (default: the directory of FILE)"
    )


def routes_show(arguments) -> int:
    from symmlib.provenance import routed_device
    from symmlib.routing import RoutingTable, show

    table = RoutingTable.load(arguments.table) if arguments.table else RoutingTable.builtin()
    wanted = {name: getattr(arguments, name) for name in ("device", "world_size", "dtype", "mode")}
    if not arguments.table:
        print("Built-in tables, for machines where nobody has measured. Your own: symmlib routes show FILE")
        if not arguments.all and not wanted["device"]:
            wanted["device"] = routed_device()
            print(f"Those for {wanted['device']}, this machine; --all shows the rest.\n")
    print(
        show(table, **wanted)
        .drop(columns=["from_bytes", "to_bytes", "crossover_low", "crossover_high"])
        .to_string(index=False)
    )
    return 0


def routes_derive(arguments) -> int:
    from symmlib.allreduce import read_results
    from symmlib.routing import RoutingTable, show
    from symmlib.routing.derive import derive

    previous = RoutingTable.load(arguments.previous) if arguments.previous else None
    results = read_results(arguments.results)
    candidates = [name.strip() for name in arguments.candidates.split(",")] if arguments.candidates else None
    table = derive(
        results.timed,
        source=results.source,
        candidates=candidates,
        incumbent=arguments.incumbent,
        previous=previous,
    )
    out = arguments.out or arguments.results[0] / "routing.toml"
    table.save(out)
    print(
        show(table).drop(columns=["from_bytes", "to_bytes", "crossover_low", "crossover_high"]).to_string(index=False)
    )
    print_banner(results.summary)
    print(f"\nRoutes: {short(out)}")
    return 0


def routes_check(arguments) -> int:
    from symmlib.allreduce import read_results
    from symmlib.allreduce.heldout import check

    results = read_results(arguments.results or [arguments.table.parent])
    with output(arguments.out or arguments.table.parent, "check", {}) as out:
        found = check(arguments.table, results, out, launches=arguments.launches)
    print(found.regret.to_string(index=False, float_format="{:.3f}".format))
    print(f"\n{found.in_words()[0].upper()}{found.in_words()[1:]}.")
    for row in found.cost.itertuples():
        print(f"The router takes {row.ratio:.3f} times as long as {row.backend} alone at {format_size(row.bytes)}.")
    print_banner(found.summary)
    print(f"Results: {short(out / 'results')}")
    return 0
