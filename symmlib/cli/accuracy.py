"""`symmlib accuracy`: whether answers are still right under every arm."""

from symmlib.cli.options import add_command, add_model_and_tp, add_out, path
from symmlib.cli.output import output, short
from symmlib.errors import UsageError

STEP = "05_accuracy"


def add(commands) -> None:
    command = add_command(commands, accuracy, "ask every arm of a profile the same items with lm-eval, and compare")
    command.add_argument("--profile", default="cpu", help=f"the profile whose {STEP} section to run (default cpu)")
    command.add_argument("--routing-table", type=path, metavar="FILE", help="what the arm `router` obeys")
    add_model_and_tp(command)
    command.add_argument("--limit", type=int, metavar="N", help="items (default: as the profile says)")
    add_out(command)


def accuracy(arguments) -> int:
    import pandas as pd

    from symmlib import profiles
    from symmlib.analysis import accuracy, agreement
    from symmlib.serving.accuracy import AccuracyExperiment, run_accuracy

    profile = profiles.load(arguments.profile).with_load(model=arguments.model, tp=arguments.tp)
    if STEP not in profile.parameters:
        raise UsageError(f"the profile {profile.name} has no section {STEP}, which says what to ask.")
    parameters = profile.parameters[STEP] | ({} if arguments.limit is None else {"limit": arguments.limit})
    experiment = AccuracyExperiment.of(parameters)
    with output(arguments.out, "accuracy", {STEP: parameters}) as out:
        comparison = run_accuracy(experiment, out, arguments.routing_table)
        summary = pd.read_csv(out / "results" / "agreement_summary.csv")
    print(*accuracy.sentences(comparison), sep="\n")
    print(*agreement.sentences(summary, [experiment.floor]), sep="\n")
    print(f"\nResults: {short(out / 'results')}")
    return 0
