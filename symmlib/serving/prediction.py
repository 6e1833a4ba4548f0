"""Lays the change that the all-reduce alone explains beside the measured one: a run's files in, one table out.

Called after every server of an experiment, and by the notebook 04_serving. What the numbers mean is in
`symmlib.analysis.prediction`; here is where their parts lie in a run.
"""

import json
from pathlib import Path

import pandas as pd

from symmlib.allreduce.results import plan_of
from symmlib.analysis import prediction as analysis
from symmlib.runs import write_csv
from symmlib.serving import arithmetic_model
from symmlib.serving.arms import VLLM_DEFAULT
from symmlib.serving.model import OURS
from symmlib.serving.turns import ALL_WHOLE

NAME = "prediction.csv"
NEEDED = {  # columns of the tables that are read
    "serving_summary": "block arm tp qps metric statistic value_ms",
    "comparison": "tp qps baseline treatment verdict",
    "allreduce_summary": "backend world_size dtype mode bytes median_us wrong status",
}
EAGER = "--enforce-eager"  # as vLLM calls it; its CPU servers always get it


def predict(out: Path, allreduce_summary: Path | None = None) -> pd.DataFrame:
    """Write `out/results/prediction.csv` and return it (columns: `analysis.prediction.PREDICTION_COLUMNS`, and `device`
    where ranks shared a GPU).

    `allreduce_summary`: the times to predict from, by default the run's own. Raises nothing for what is missing or
    damaged: rows without a prediction say why in `note`, and where nothing was compared the table has no rows.
    """
    out = Path(out)
    results = out / "results"
    summary, comparison = (_table(results / f"{name}.csv", name) for name in ("serving_summary", "comparison"))
    if summary is None or comparison is None:
        table = pd.DataFrame(columns=analysis.PREDICTION_COLUMNS)
    else:
        pairs = list(dict.fromkeys(zip(comparison["baseline"], comparison["treatment"], strict=True)))
        times = _table(Path(allreduce_summary or results / "allreduce_summary.csv"), "allreduce_summary")
        differences = analysis.measured(summary, pairs, _invalid(comparison))
        plan = plan_of(Path(allreduce_summary).resolve().parent.parent if allreduce_summary else out)
        table = analysis.beside(_predicted(out / "raw", times, plan, pairs, summary), differences)
        if "device" in comparison:  # which only ranks that shared a GPU have there, and everything made of it says so
            table = table.assign(device=comparison["device"].iloc[0])
    write_csv(results / NAME, table)
    return table


def _predicted(raw: Path, times: pd.DataFrame | None, plan: dict, pairs: list, summary: pd.DataFrame) -> pd.DataFrame:
    try:
        experiment = json.loads((raw / "serving" / "experiment.json").read_text(encoding="utf-8"))
        if times is not None and experiment.get("one_gpu") and not plan.get("beside_a_model"):
            raise _Unknown(
                "all-reduces were not measured as they run in vLLM there: set beside_a_model in 02_allreduce"
            )
        config = _model_config(experiment["model"], raw)
        return analysis.predict(
            _calls(raw / "serving"),
            times,
            pairs,
            hidden_size=config["hidden_size"],
            calls_per_step=2 * config["num_hidden_layers"] + 1,
            input_len=experiment["input_len"],
            mode=_mode(raw / "serving", experiment),
            one_gpu=bool(experiment.get("one_gpu")),
        )
    except _Unknown as unknown:
        why = str(unknown)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # files that are not there, or damaged
        why = f"the run cannot be read: {error!r}"
    rows = [(tp, *pair, metric, float("nan"), why) for tp in summary["tp"].unique() for pair in pairs
            for metric in analysis.METRICS]  # fmt: skip
    return pd.DataFrame(rows, columns=analysis.PREDICTED_COLUMNS)


class _Unknown(Exception):
    """What cannot be known of this run, in a sentence."""


def _calls(serving: Path) -> pd.DataFrame:
    """What rank 0 of every server that ran to its end counted (`analysis.prediction.CALL_COLUMNS`)."""
    rows = []
    for path in sorted(serving.glob(ALL_WHOLE)):
        turn, trace = json.loads(path.read_text(encoding="utf-8")), path.parent / "trace" / "rank-0.json"
        if trace.is_file():
            key = {name: turn[name] for name in ("tp", "arm", "block")}
            rows += [{**key, **call} for call in json.loads(trace.read_text(encoding="utf-8"))["calls"]]
    if not rows:
        raise _Unknown(f"no server left a trace of its all-reduces; {VLLM_DEFAULT} never does")
    found = pd.DataFrame(rows)
    columns = analysis.CALL_COLUMNS + (["replayed"] if "replayed" in found else [])  # older traces count none
    return found[columns].dropna().astype({"tp": int, "block": int})


def _model_config(model: str, raw: Path) -> dict:
    """`hidden_size` and `num_hidden_layers` of the experiment's model, from its config.json."""
    directory = raw / "model" if model in OURS else Path(model).expanduser()
    if model == arithmetic_model.NAME:
        directory = arithmetic_model.cache()
    if not (directory / "config.json").is_file():
        raise _Unknown(f"the size of the model {model} is not known here: there is no {directory / 'config.json'}")
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    config = {**config, **config.get("text_config", {})}  # of a model that sees, the part that speaks
    for name in ("hidden_size", "num_hidden_layers"):
        if not isinstance(config.get(name), int) or config[name] < 1:
            raise _Unknown(f"{directory / 'config.json'} does not say {name} of the model")
    return config


def _mode(serving: Path, experiment: dict) -> str:
    """'eager' if the servers were told so by the experiment or by their platform, else 'graph'."""
    commands = [path.read_text(encoding="utf-8") for path in serving.glob("block-*/tp*-*/commands.txt")]
    told = (
        EAGER in experiment.get("server_args", []) or bool(commands) and all(EAGER in command for command in commands)
    )
    return "eager" if told else "graph"


def _invalid(comparison: pd.DataFrame) -> dict[tuple, str]:
    """(tp, qps, baseline, treatment) -> why a gate found the cell invalid."""
    void = comparison[comparison["verdict"] == "invalid"]
    notes = void["note"].fillna("") if "note" in void else [""] * len(void)
    keys = zip(void["tp"], void["qps"], void["baseline"], void["treatment"], strict=True)
    return {key: f"invalid: {note or 'a gate failed'}" for key, note in zip(keys, notes, strict=True)}


def _table(path: Path, name: str) -> pd.DataFrame | None:
    try:
        table = pd.read_csv(path, keep_default_na=False, na_values=["", "nan", "<NA>"])
    except (OSError, ValueError):
        return None
    return table if len(table) and set(NEEDED[name].split()) <= set(table) else None
