"""The tables of an accuracy experiment, out of what its servers left under raw/accuracy/. `accuracy` calls this."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from symmlib.analysis import accuracy as analysis
from symmlib.analysis import agreement
from symmlib.runs import write_csv
from symmlib.serving import agreement as ask
from symmlib.serving.gates import GATE_COLUMNS, Measurement, intended_all_reduce

if TYPE_CHECKING:
    from symmlib.serving.accuracy import AccuracyExperiment, AccuracyTurn

OURS = ", accuracy"  # ends the cell of this step's gates, which stand beside those of 04_serving


def write_results(experiment: "AccuracyExperiment", done: list["AccuracyTurn"], results: Path) -> pd.DataFrame:
    """Write the tables and gates of the servers that have been asked; returns the comparison."""
    gates = [_gate(turn) for turn in done]
    invalid = {(turn.tp, turn.arm.name): gate["reason"] for turn, gate in zip(done, gates, strict=True)
               if gate["status"] != "valid"}  # fmt: skip
    items = [analysis.items_of(samples(turn), tp=turn.tp, arm=turn.arm.name, task=_task(turn)) for turn in done]
    items = pd.concat(items, ignore_index=True) if items else pd.DataFrame(columns=analysis.ITEM_COLUMNS)
    pairs = [(experiment.baseline, arm.name) for arm in experiment.arms if arm.name != experiment.baseline]
    comparison = analysis.compare(items, pairs, experiment.floor, invalid)
    write_csv(results / "accuracy.csv", analysis.accuracy(items))
    write_csv(results / "accuracy_items.csv", items)
    write_csv(results / "accuracy_comparison.csv", comparison)
    table = ask.table({(turn.tp, turn.arm.name): turn.answers for turn in done}, experiment.baseline)
    floors = dict.fromkeys(experiment.tp, experiment.floor)
    write_csv(results / "agreement.csv", table)
    write_csv(results / "agreement_summary.csv", agreement.summarize(table, floors))
    _keep_gates(gates, results / "gates.csv")
    return comparison


def samples(turn: "AccuracyTurn") -> list[dict]:
    """lm-eval's samples of a server, one per item and filter; of its newest evaluation, should there be several."""
    newest = max(turn.output.rglob("samples_*.jsonl"), key=lambda path: path.name)
    return [json.loads(line) for line in newest.read_text(encoding="utf-8").splitlines()]


def _task(turn: "AccuracyTurn") -> str:
    return json.loads((turn.place / "turn.json").read_text(encoding="utf-8"))["task"]


def _gate(turn: "AccuracyTurn") -> dict:
    """Whether the arm's all-reduce served, by the trace or the log of its server."""
    ((ok, reason),) = intended_all_reduce([Measurement(1, turn.arm, turn.tp, 0, turn.place, turn.trace)])
    cell = f"TP={turn.tp}, {turn.arm.name}{OURS}"
    return dict(zip(GATE_COLUMNS, ("intended all-reduce", cell, "valid" if ok else "invalid", reason), strict=True))


def _keep_gates(gates: list[dict], path: Path) -> None:
    """Put this step's rows into gates.csv, in the place of its earlier ones."""
    mine = pd.DataFrame(gates, columns=GATE_COLUMNS)
    if path.is_file():
        others = pd.read_csv(path, keep_default_na=False)
        mine = pd.concat([others[~others["cell"].str.endswith(OURS)], mine], ignore_index=True)
    write_csv(path, mine)
