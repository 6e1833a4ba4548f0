"""`symmlib serve`, `serve merge` and `serve import`: serving experiments, our own and others'."""

import shlex

from symmlib.cli.options import add_blocks, add_command, add_model_and_tp, add_out, add_qps, add_within, path
from symmlib.cli.output import output, short
from symmlib.errors import UsageError


def add(commands) -> None:
    command = add_command(commands, serve, "serve with vLLM under every arm of a profile, and compare")
    command.add_argument("--profile", default="cpu", help="the profile whose 04_serving section to run (default cpu)")
    command.add_argument("--routing-table", type=path, metavar="FILE", help="what the arm `router` obeys")
    command.add_argument("--aa", nargs="?", const="", metavar="ARM", help="serve ARM (by default the baseline) as both "
                         "arms: what two equal arms differ by is noise, and bounds what later experiments of this load "
                         "call a change")  # fmt: skip
    command.add_argument("--dry-run", action="store_true", help="print commands, schedule and duration; start nothing")
    command.add_argument("--part", default="1/1", metavar="K/N", help="serve one of N parts, so that N GPUs or N calls "
                         "share the experiment: with TP 2 and 4, 1/2 is TP=2 and 2/2 is TP=4; with one TP, every "
                         "second block. `serve merge` makes one run of them")  # fmt: skip
    add_model_and_tp(command)
    add_qps(command)
    add_within(command)
    add_blocks(command)
    add_out(command)
    others = command.add_subparsers(metavar="{merge,import}", required=False)
    command = add_command(others, serve_merge, "make one run of an experiment that was served in parts", "merge")
    command.add_argument("runs", nargs="+", type=path, metavar="DIR", help="where `serve --part ... --out` wrote to")
    command.add_argument("--out", type=path, required=True, metavar="RUN", help="the run that gets what it lacks")
    command = add_command(others, serve_import, "add what another load generator measured to the same tables", "import")
    command.add_argument("file", type=path, metavar="FILE", help="JSON of GuideLLM or vllm bench serve, or AIPerf's "
                         "profile_export.jsonl")  # fmt: skip
    command.add_argument("--arm", required=True, metavar="NAME", help="the server configuration, as tables call it")
    command.add_argument("--tp", type=int, required=True, help="its tensor-parallel size")
    command.add_argument("--qps", type=float, required=True, help="the request rate that was asked for")
    command.add_argument("--block", type=int, default=1, help="the repetition that it belongs to (default 1)")
    command.add_argument("--baseline", default="", metavar="NAME", help="what the others are compared with (by default "
                         "the arm that was imported first)")  # fmt: skip
    command.add_argument("--out", type=path, required=True, metavar="DIR", help="where raw/ and results/ are")


def serve(arguments) -> int:
    from symmlib import deadline, profiles
    from symmlib.serving import ServingExperiment, dry_run, run_experiment
    from symmlib.serving.parts import ALL, Part

    part = Part.of(arguments.part)
    if part != ALL and not (arguments.out or arguments.dry_run):
        raise UsageError(f"part {part} needs a directory of its own, for `symmlib serve merge`: --out DIR")
    deadline.set_within(arguments.within)
    profile = profiles.load(arguments.profile).with_load(model=arguments.model, tp=arguments.tp, qps=arguments.qps)
    if arguments.blocks is not None:
        profile = profile.with_blocks(arguments.blocks)
    parameters = profile.serving()
    experiment = ServingExperiment.of(parameters)
    if arguments.aa is not None:
        experiment = experiment.a_a(arguments.aa or experiment.baseline)
        named = {"arms": [arm.as_dict() for arm in experiment.arms]}
        parameters = parameters | named | {"baseline": experiment.baseline, "treatment": experiment.treatment}
    if arguments.dry_run:
        print(dry_run.in_words(experiment, dry_run.kind_for(experiment), arguments.routing_table, part))
        return 0
    with output(arguments.out, "serve" if arguments.aa is None else "serve-aa", {"04_serving": parameters}) as out:
        try:
            comparison = run_experiment(experiment, out, arguments.routing_table, part)
        except KeyboardInterrupt:
            print(f"\nWhat is complete: {short(out / 'results')}. The same command with --out goes on from there.")
            raise
    if part == ALL:
        print(comparison.to_string(index=False, na_rep="-", float_format="{:.3f}".format))
    else:
        print(f"Part {part} is there. When all are: symmlib serve merge DIR ... --out RUN")
    print(f"\nResults: {short(out / 'results')}")
    return 0


def serve_merge(arguments) -> int:
    from symmlib.serving.parts import merge

    merged = merge(arguments.runs, arguments.out)
    out = shlex.quote(short(arguments.out))
    print(f"{merged.copied} servers copied; {merged.there} are in {out} now.")
    if merged.left:
        print(f"Not all copied, as the arms of a block at one TP come from one run: {', '.join(merged.left)}. In a new "
              "directory each would come from the run that has most of it.")  # fmt: skip
    if merged.half:
        print(
            f"Not whole: {', '.join(merged.half)}. Let that part end and merge again, or another GPU serves the rest."
        )
    has_manifest = (arguments.out / "manifest.json").is_file()
    again = f"symmlib run --resume {out}" if has_manifest else f"the parts' command without --part, with --out {out}"
    print(f"This makes its tables, and serves what is missing: {again} (and with their --blocks)")
    return 0


def serve_import(arguments) -> int:
    from symmlib.serving.imported import import_results

    comparison = import_results(
        arguments.file,
        arguments.out,
        arm=arguments.arm,
        tp=arguments.tp,
        qps=arguments.qps,
        block=arguments.block,
        baseline=arguments.baseline,
    )
    if comparison.empty:
        print("Kept. With a second arm in the same block and cell there is something to compare.")
    else:
        print(comparison.to_string(index=False, na_rep="-", float_format="{:.3f}".format))
    print(f"\nResults: {short(arguments.out / 'results')}")
    return 0
