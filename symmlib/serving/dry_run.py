"""What an experiment would do, and how long that takes: every command, the order of arms, and each rate's schedule.

Called by `symmlib serve --dry-run`. Starts nothing, needs no GPU and no vLLM.
"""

from pathlib import Path

from symmlib.errors import SymmlibError
from symmlib.progress import duration
from symmlib.provenance import cores
from symmlib.serving import estimate, load, server, workload
from symmlib.serving.arms import Arm
from symmlib.serving.experiment import ServingExperiment, place_of
from symmlib.serving.model import Model, find_model, to_download
from symmlib.serving.parts import ALL, Part
from symmlib.serving.turns import all_turns


def in_words(experiment: ServingExperiment, kind: str, routing_table: Path | None = None, part: Part = ALL) -> str:
    """The whole as text. `kind`: "cpu" or "cuda", what vLLM would run on; `part`: whose servers are counted."""
    model = find_model(experiment.model)
    turns = all_turns(experiment, Path())
    servers = len(part.turns(turns))
    lines = [
        f"model     {experiment.model}",
        *([f"note      {note}"] if (note := to_download(experiment.model)) else []),
        f"requests  {workload.in_words(experiment)}",
        f"arms      {', '.join(experiment.arm_names)}",
        f"compared  {'; '.join(f'{treatment} with {baseline}' for baseline, treatment in experiment.pairs())}",
        f"blocks    {experiment.blocks} (tier {experiment.tier})",
        *([] if part == ALL else [f"part      {part}, {servers} of {len(turns)} servers"]),
        f"time      about {duration(servers * estimate.server_s(experiment, kind))}, with "
        f"{estimate.ready_s(experiment, kind)} s for each of {servers} servers to start",
        "",
    ]
    for block, order in enumerate(experiment.orders(), 1):
        rates = ", ".join(
            f"{experiment.requests(qps)} requests at {qps:g}/s in {duration(experiment.duration_s)}"
            for qps in experiment.qps
        )
        later = [arm for arm in order if experiment.is_partial(arm)]
        arms = ", then ".join(arm.name for arm in order if arm not in later)
        last = f", and {' and '.join(arm.name for arm in later)} after the last block" if later else ""
        lines.append(f"block {block}, seed {experiment.block_seed(block)}: {arms}{last}; on each {rates}")
    if experiment.blocks > 1:
        lines += ["", "Commands of block 1; in another block the rates have its --seed, and the warm-up keeps its own."]
    for tp in experiment.tp:
        for arm in experiment.arms:
            lines += ["", f"# TP={tp}, {arm.name}", *_commands(experiment, model, arm, tp, kind, routing_table)]
    return "\n".join(lines)


def kind_for(experiment: ServingExperiment) -> str:
    """The kind `cpu` where this machine's vLLM serves from its processor and the experiment can, else `cuda`."""
    try:
        kind = server.platform()
    except SymmlibError:
        return "cuda"
    fits = max(experiment.tp) <= cores() and not any(_lacks(experiment, kind))
    return kind if fits else "cuda"


def _lacks(experiment: ServingExperiment, kind: str) -> list[str]:
    return [server.why_not(arm.all_reduce, kind, experiment.one_gpu) for arm in experiment.arms]


def _commands(
    experiment: ServingExperiment, model: Model, arm: Arm, tp: int, kind: str, table: Path | None
) -> list[str]:
    """The commands of one arm in block 1, as for a shell in which PORT is set."""
    trace = Path("raw/serving/block-1") / f"tp{tp}-{place_of(arm.name)}" / "trace"
    shared = experiment.one_gpu
    env = server.environment(model, arm, tp, kind, trace=trace, routing_table=table, one_gpu=shared)
    port, url = "$PORT", f"http://{server.HOST}:$PORT"
    said = [server.shell(server.command(experiment, model, arm, tp, port, kind), env).replace("'$PORT'", port)]
    for qps, block in [(max(experiment.qps), None), *((qps, 1) for qps in experiment.qps)]:
        result = Path(f"qps-{qps:g}.json" if block else "warmup.json")
        arguments = load.bench_arguments(
            experiment, model, url, qps, block, result, {"arm": arm.name, "tp": tp, "block": 1}
        )
        said.append(load.shell(arguments).replace(f"'{url}'", url))
    return said
