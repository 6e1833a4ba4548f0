"""The tables of a serving experiment, out of what its servers left. `run` and `imported` call this."""

from pathlib import Path

import pandas as pd

from symmlib.analysis import serving as analysis
from symmlib.analysis.agreement import summarize
from symmlib.backends import ONE_GPU
from symmlib.errors import SymmlibError
from symmlib.provenance import routed_device
from symmlib.runs import write_csv
from symmlib.serving import agreement, floor, gates
from symmlib.serving.experiment import ServingExperiment
from symmlib.serving.gates import Measurement
from symmlib.serving.turns import Turn


def write_results(
    experiment: ServingExperiment,
    measured: list[Measurement],
    results: Path,
    noise: pd.DataFrame | None = None,
    failed: dict[Turn, SymmlibError] | None = None,
) -> pd.DataFrame:
    """Write the tables and gates of what was `measured`; returns the comparison. `noise`: as `floor.find` gives it;
    `failed`: what did not run to its end, and why."""
    if noise is not None:
        write_csv(results / floor.FLOOR, noise)
    checked = gates.check(measured)
    for turn, error in (failed or {}).items():
        checked.failed(turn.block, turn.tp, experiment.qps, turn.arm.name, str(error).splitlines()[0])
    device = routed_device() + ONE_GPU if experiment.one_gpu else ""
    return write_tables(measured, checked, experiment.pairs(), experiment.tier, results, noise, device)


def write_tables(
    measured: list[Measurement],
    checked: gates.Gates,
    pairs: list[tuple[str, str]],
    tier: str,
    results: Path,
    noise: pd.DataFrame | None = None,
    device: str = "",
) -> pd.DataFrame:
    """As `write_results`, of whatever was measured: by this suite, or imported.

    `device`: what all ranks shared, such as 'sm_90/one-gpu'; then the tables have it as a column, and everything that
    is made of them says so.
    """
    requests, summaries = [], []
    for m in measured:
        place = {"block": m.block, "arm": m.arm.name, "tp": m.tp, "qps": m.qps}
        requests.append(m.requests.assign(**place))
        summaries.append(analysis.summarize(m.result).assign(**place))
    summary = _concat(summaries, analysis.SUMMARY_COLUMNS)
    options = {} if noise is None else {"delta": noise}
    comparison = analysis.compare(summary, pairs, tier=tier, invalid=checked.invalid, **options)
    told = {"device": device} if device else {}
    comparison = comparison.assign(**told)
    write_csv(results / "serving.csv", _concat(requests, analysis.REQUEST_COLUMNS).assign(**told))
    write_csv(results / "serving_summary.csv", summary.assign(**told))
    write_csv(results / "comparison.csv", comparison)
    write_csv(results / "gates.csv", checked.frame())
    return comparison


def write_agreement(experiment: ServingExperiment, done: list[Turn], results: Path) -> None:
    """Write what the greedy answers of block 1 say of the arms, unless 05_accuracy asked the same of this run.

    The noise floor is the first arm that differs from the baseline in nothing but its name, where there is one.
    """
    if (results / "accuracy_comparison.csv").exists():
        return
    answers = {(turn.tp, turn.arm.name): turn.greedy for turn in done if turn.greedy.is_file()}
    table = agreement.table(answers, experiment.baseline)
    again = next((arm.name for arm in experiment.again()), None)
    floors = dict.fromkeys(experiment.tp, (experiment.baseline, again)) if again else {}
    write_csv(results / "agreement.csv", table)
    write_csv(results / "agreement_summary.csv", summarize(table, floors))


def _concat(frames: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)
